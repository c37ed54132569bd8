"""What is registered: every implementation of every op, in one place.

A backend is named by the module that holds it, under the op's own name, and imported when a call first wants it: the
faces cost no import of triton.
"""

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .common.dispatch import anywhere, register
from .common.limits import LIMITS
from .common.triton_runtime import supports

# op -> backend -> the module that implements it
BACKENDS: dict[str, dict[str, str]] = {
    "contrastive_loss": {"torch": "contrastive.torch_tiles", "triton": "contrastive.triton_tiles"},
    "distill_head_loss": {"torch": "distill.torch_head", "triton": "distill.triton_head"},
    "distill_loss": {"torch": "distill.torch_logits", "triton": "distill.triton_logits"},
    "patch_embed": {"torch": "patch_embedding.torch_backend", "triton": "patch_embedding.triton_backend"},
}
_IMPORTED: dict[tuple[str, str], Callable[..., Any]] = {}


def register_all() -> None:
    for op, modules in BACKENDS.items():
        for backend, module in modules.items():
            takes = functools.partial(_triton_takes, op) if backend == "triton" else anywhere
            register(op, backend, _later(op, module), takes)


def _triton_takes(op: str, device: torch.device, tensors: Sequence[Tensor]) -> tuple[bool, str]:
    able, where = supports(device, tensors)
    refused = LIMITS[op](*tensors) if able and tensors and op in LIMITS else ""
    return (False, refused) if refused else (able, where)


def _later(op: str, module: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        _import(op, module)
        return _IMPORTED[op, module](*args, **kwargs)

    return call


@torch.compiler.assume_constant_result  # an import cannot be traced
def _import(op: str, module: str) -> None:
    _IMPORTED[op, module] = getattr(importlib.import_module(f".{module}", __package__), op)
