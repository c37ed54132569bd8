"""Attention inside each crop of a packed sequence, and the registry that picks how.

The packed sequence holds crops of several resolutions one after another; a token attends to its own crop only. No mask
is built over the whole sequence: ``sdpa`` attends once for each resolution, on views; ``xformers`` runs one
variable-length kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from silc_kernels import PackedLayout

Attend = Callable[[Tensor, int, PackedLayout], list[Tensor]]


class Choice(NamedTuple):
    """A backend and why it was taken; `attend(qkv [T, 3 * D], heads, layout)` gives the parts of [T, D] in order."""

    name: str
    reason: str
    attend: Attend


def sdpa(qkv: Tensor, heads: int, layout: PackedLayout) -> list[Tensor]:
    """Attention with one scaled_dot_product_attention per resolution: qkv [T, 3 * D] -> [T_i, D] of each resolution."""
    attended = []
    for group in layout.views(qkv):
        q, k, v = group.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        attended.append(sdpa_heads(q, k, v).transpose(1, 2).flatten(2).flatten(0, 1))
    return attended


def sdpa_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """scaled_dot_product_attention of [B, heads, L, d]; on a CPU bf16 and fp16 are computed in fp32.

    There the fused kernel takes five times as long to go backward in bf16 as in fp32, the casts included.
    """
    if q.device.type != "cpu" or q.dtype not in (torch.bfloat16, torch.float16):
        return F.scaled_dot_product_attention(q, k, v)
    return F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(q.dtype)


@torch.compiler.disable
def xformers(qkv: Tensor, heads: int, layout: PackedLayout) -> list[Tensor]:
    """Attention with xformers' block-diagonal memory_efficient_attention: qkv [T, 3 * D] -> [T, D], one part."""
    from xformers.ops import memory_efficient_attention

    q, k, v = qkv.view(1, qkv.shape[0], 3, heads, -1).unbind(2)
    attended = memory_efficient_attention(q, k, v, attn_bias=_block_diagonal(layout, qkv.device))
    return [attended.reshape(qkv.shape[0], -1)]


@lru_cache(maxsize=16)
def _block_diagonal(layout: PackedLayout, device: torch.device) -> object:
    from xformers.ops.fmha.attn_bias import BlockDiagonalMask

    return BlockDiagonalMask.from_seqlens(layout.seqlens, device=device)


def _sdpa_runs(device: torch.device, dtype: torch.dtype) -> tuple[bool, str]:
    return True, "part of torch"


def _xformers_runs(device: torch.device, dtype: torch.dtype) -> tuple[bool, str]:
    if device.type != "cuda":
        return False, f"its kernels need CUDA, the device is {device.type}"
    try:
        import xformers.ops
    except ImportError as error:
        return False, f"xformers does not import ({error})"
    # Its wheels are built for one torch release and may import but not run on another: try a step.
    try:
        qkv = torch.zeros(3, 3 * 64, device=device, dtype=dtype, requires_grad=True)
        xformers(qkv, 1, PackedLayout(((1, 3),)))[0].sum().backward()
    except (RuntimeError, NotImplementedError, ValueError, TypeError) as error:
        return False, f"xformers imports but its kernels do not run here ({str(error).splitlines()[0]})"
    return True, "one variable-length kernel for all resolutions"


# In the order `auto` tries them.
_BACKENDS: dict[str, tuple[Attend, Callable[[torch.device, torch.dtype], tuple[bool, str]]]] = {
    "xformers": (xformers, _xformers_runs),
    "sdpa": (sdpa, _sdpa_runs),
}


@lru_cache(maxsize=32)
def choose(name: str, device: torch.device, dtype: torch.dtype) -> Choice:
    """The attention backend for `name` (auto, sdpa, xformers) on a device.

    Raises ValueError if a backend asked for by name cannot run on it, with the reason.
    """
    if name != "auto":
        if name not in _BACKENDS:
            raise ValueError(f"model.attention={name!r} is not one of auto, {', '.join(_BACKENDS)}")
        attend, supports = _BACKENDS[name]
        runs, reason = supports(device, dtype)
        if not runs:
            raise ValueError(f"model.attention={name!r} cannot run: {reason}; take auto or sdpa")
        return Choice(name, f"asked for; {reason}", attend)
    passed_over: list[str] = []
    for candidate, (attend, supports) in _BACKENDS.items():
        runs, reason = supports(device, dtype)
        if runs:
            return Choice(candidate, "; ".join([reason, *passed_over]), attend)
        passed_over.append(f"not {candidate}: {reason}")
    raise AssertionError("sdpa always runs")


def report(name: str, device: torch.device, dtype: torch.dtype) -> tuple[str, str, str]:
    """A row (op, backend, reason) for the start banner."""
    choice = choose(name, device, dtype)
    return "attention", choice.name, choice.reason
