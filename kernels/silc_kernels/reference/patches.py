"""patch_embed in plain torch: per resolution, a copy into patch rows and one matrix product, some crops at a time."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .. import patch_op

# Numbers of the patch matrix held at a time: 4 MiB of float32, so that it is multiplied while still in the cache.
CHUNK_ELEMENTS = 1 << 20
BYTE_CENTER = 128


def forward(
    crops: list[Tensor],
    weight: Tensor,
    bias: Tensor,
    positions: list[Tensor],
    prefix: Tensor | None,
    mean: list[float],
    std: list[float],
    out_dtype: torch.dtype,
) -> Tensor:
    """See `patch_op.define`. Computes in float32, in float64 where the weight is."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    gain, offset = _folding(mean, std, dtype, weight.device)
    plain = weight.to(dtype)
    folded = (plain * gain).flatten(1).t()
    folded_bias = bias.to(dtype) + (plain * offset).sum((1, 2, 3))
    before = 0 if prefix is None else prefix.shape[0]
    rows = sum(crop.shape[0] * (before + table.shape[0]) for crop, table in zip(crops, positions, strict=True))
    packed = torch.empty(rows, weight.shape[0], dtype=out_dtype, device=weight.device)
    start = 0
    for crop, table in zip(crops, positions, strict=True):
        end = start + crop.shape[0] * (before + table.shape[0])
        group = packed[start:end].view(crop.shape[0], before + table.shape[0], -1)
        start = end
        if prefix is not None:
            group[:, :before] = prefix
        whole = folded if crop.dtype == torch.uint8 else plain.flatten(1).t()
        added = table.to(dtype) + (folded_bias if crop.dtype == torch.uint8 else bias.to(dtype))
        for part, patches in _patches(crop, weight.shape[-1], dtype):
            _project(patches, whole, added, group[part, before:])
    return packed


def backward(
    grad: Tensor,
    crops: list[Tensor],
    patch: int,
    tokens: list[int],
    before: int,
    mean: list[float],
    std: list[float],
    dtype: torch.dtype,
) -> list[Tensor]:
    """See `patch_op.define`."""
    width = grad.shape[-1]
    gain, offset = _folding(mean, std, dtype, grad.device)
    d_folded = torch.zeros(2, width, 3 * patch * patch, dtype=dtype, device=grad.device)
    d_bias = torch.zeros(2, width, dtype=dtype, device=grad.device)
    d_prefix = torch.zeros(before, width, dtype=dtype, device=grad.device)
    d_positions = []
    start = 0
    for crop, count in zip(crops, tokens, strict=True):
        end = start + crop.shape[0] * (before + count)
        group = grad[start:end].view(crop.shape[0], before + count, width)
        start = end
        raw = int(crop.dtype == torch.uint8)
        d_prefix += group[:, :before].sum(0, dtype=dtype)
        d_positions.append(group[:, before:].sum(0, dtype=dtype))
        d_bias[raw] += d_positions[-1].sum(0)
        for part, patches in _patches(crop, patch, dtype):
            rows = group[part, before:].to(dtype).reshape(-1, width)
            d_folded[raw].addmm_(rows.t(), patches)
    d_plain, d_raw = d_folded.view(2, width, 3, patch, patch)
    d_weight = d_plain + d_raw * gain + d_bias[1].view(-1, 1, 1, 1) * offset
    return [d_weight, d_bias.sum(0), d_prefix, *d_positions]


patch_embed = patch_op.define("patch_embed_reference", forward, backward)
patch_embed.__doc__ = "Plain-torch `silc_kernels.patch_embed`; arguments are not checked."


def _folding(
    mean: Sequence[float], std: Sequence[float], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """gain, offset, [1, 3, 1, 1] each: (byte / 255 - mean) / std = gain (byte - 128) + offset."""
    gain = [1 / (255 * s) for s in std]
    offset = [(BYTE_CENTER / 255 - m) / s for m, s in zip(mean, std, strict=True)]
    return tuple(torch.tensor(v, dtype=dtype, device=device).view(1, 3, 1, 1) for v in (gain, offset))


def _project(patches: Tensor, weight: Tensor, added: Tensor, out: Tensor) -> None:
    """patches [m tokens, 3 p p] @ weight [3 p p, D] + added [tokens, D], into out [m, tokens, D]."""
    if out.is_contiguous() and out.dtype == added.dtype:
        out.copy_(added).view(-1, out.shape[-1]).addmm_(patches, weight)
    else:
        torch.add((patches @ weight).view(out.shape), added, out=out)


def _patches(crop: Tensor, patch: int, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """Some crops at a time: (which, their patches [crops * tokens, 3 p p]), bytes centred by 128.

    One buffer serves all: what is yielded is overwritten by the next.
    """
    crops, channels, height, width = crop.shape
    step = min(crops, max(1, CHUNK_ELEMENTS // (channels * height * width)))
    shape = (step, height // patch, width // patch, channels, patch, patch)
    buffer = torch.empty(shape, dtype=dtype, device=crop.device)
    raw = crop.dtype == torch.uint8
    words = raw and patch % 8 == 0 and crop.is_contiguous()
    words = words and crop.data_ptr() % 8 == 0 and crop.storage_offset() % 8 == 0
    if words:
        # By way of one dimension: where a size is 1 a contiguous tensor may have any stride, which `view` would refuse.
        eights = crop.view(-1).view(torch.int64).view(crops, channels, height, width // 8)
        cut = _cut(eights, patch, patch // 8)
    else:
        cut = _cut(crop, patch, patch)
    moved = torch.empty(shape, dtype=torch.uint8, device=crop.device) if words else None
    for start in range(0, crops, step):
        part = cut[start : start + step]
        patches = buffer[: part.shape[0]]
        if words:
            # Eight bytes at a time, then one conversion of the whole; byte - 128 is the byte with its top bit flipped.
            moved.view(torch.int64)[: part.shape[0]] = part
            patches.copy_(moved.bitwise_xor_(BYTE_CENTER).view(torch.int8)[: part.shape[0]])
        else:
            patches.copy_(part)
            if raw:
                patches -= BYTE_CENTER
        yield slice(start, start + part.shape[0]), patches.view(-1, channels * patch * patch)


def _cut(crop: Tensor, down: int, across: int) -> Tensor:
    """[M, 3, H, W] -> the view [M, H / down, W / across, 3, down, across]."""
    return crop.unflatten(3, (-1, across)).unflatten(2, (-1, down)).permute(0, 2, 4, 1, 3, 5)
