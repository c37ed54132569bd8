"""patch_embed in plain torch: per resolution, a copy into patch rows and one matrix product, some crops at a time."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

# Numbers of the patch matrix held at a time, 8 MiB of float32: threads wait for one another between products, so few.
CHUNK_ELEMENTS = 1 << 21
BYTE_CENTER = 128
TOP_BITS = -0x7F7F7F7F7F7F7F80  # of the eight bytes of an int64
# Bytes moved at a time -> a type of that size.
WORDS = {16: torch.complex128, 8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}


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
    """See `ops._module`. Computes in float32, in float64 where the weight is."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    gain, offset = _folding(mean, std, dtype, weight.device)
    plain = weight.to(dtype)
    folded = (plain * gain).flatten(1).t()
    folded_bias = bias.to(dtype) + (plain.sum((2, 3)) * offset.flatten()).sum(1)
    before = 0 if prefix is None else prefix.shape[0]
    rows = sum(crop.shape[0] * (before + table.shape[0]) for crop, table in zip(crops, positions, strict=True))
    packed = torch.empty(rows, weight.shape[0], dtype=out_dtype, device=weight.device)
    workspace = _Workspace(crops, dtype)
    start = 0
    for crop, table in zip(crops, positions, strict=True):
        end = start + crop.shape[0] * (before + table.shape[0])
        group = packed[start:end].view(crop.shape[0], before + table.shape[0], -1)
        start = end
        if prefix is not None:
            group[:, :before] = prefix
        whole = folded if crop.dtype == torch.uint8 else plain.flatten(1).t()
        added = table.to(dtype) + (folded_bias if crop.dtype == torch.uint8 else bias.to(dtype))
        for part, patches in workspace.patches(crop, weight.shape[-1]):
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
    """See `ops._module`."""
    width = grad.shape[-1]
    gain, offset = _folding(mean, std, dtype, grad.device)
    d_folded = torch.zeros(2, width, 3 * patch * patch, dtype=dtype, device=grad.device)
    d_bias = torch.zeros(2, width, dtype=dtype, device=grad.device)
    d_prefix = torch.zeros(before, width, dtype=dtype, device=grad.device)
    d_positions = []
    workspace = _Workspace(crops, dtype)
    start = 0
    for crop, count in zip(crops, tokens, strict=True):
        end = start + crop.shape[0] * (before + count)
        group = grad[start:end].view(crop.shape[0], before + count, width)
        start = end
        raw = int(crop.dtype == torch.uint8)
        d_prefix += group[:, :before].sum(0, dtype=dtype)
        d_positions.append(group[:, before:].sum(0, dtype=dtype))
        d_bias[raw] += d_positions[-1].sum(0)
        for part, patches in workspace.patches(crop, patch):
            rows = group[part, before:].to(dtype).reshape(-1, width)
            d_folded[raw].addmm_(rows.t(), patches)
    d_plain, d_raw = d_folded.view(2, width, 3, patch, patch)
    d_weight = d_plain + d_raw * gain + d_bias[1].view(-1, 1, 1, 1) * offset
    return [d_weight, d_bias.sum(0), d_prefix, *d_positions]


def _folding(
    mean: Sequence[float], std: Sequence[float], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """gain, offset, [1, 3, 1, 1] each: (byte / 255 - mean) / std = gain (byte - 128) + offset."""
    gains = [1 / (255 * s) for s in std]
    offsets = [(BYTE_CENTER / 255 - m) / s for m, s in zip(mean, std, strict=True)]
    gain, offset = (torch.tensor(v, dtype=dtype, device=device).view(1, 3, 1, 1) for v in (gains, offsets))
    return gain, offset


def _project(patches: Tensor, weight: Tensor, added: Tensor, out: Tensor) -> None:
    """patches [m tokens, 3 p p] @ weight [3 p p, D] + added [tokens, D], into out [m, tokens, D]."""
    if out.is_contiguous() and out.dtype == added.dtype:
        out.copy_(added).view(-1, out.shape[-1]).addmm_(patches, weight)
    else:
        torch.add((patches @ weight).view(out.shape), added, out=out)


class _Workspace:
    """The patch matrix of some crops at a time, in one piece of memory for all resolutions."""

    def __init__(self, crops: Sequence[Tensor], dtype: torch.dtype) -> None:
        most = max(_crops_at_once(crop) * crop.shape[1:].numel() for crop in crops)
        self._numbers = torch.empty(most, dtype=dtype, device=crops[0].device)
        self._bytes = torch.empty(-(-most // 16) * 16, dtype=torch.uint8, device=crops[0].device)

    def patches(self, crop: Tensor, patch: int) -> Iterator[tuple[slice, Tensor]]:
        """(which crops, their patches [crops * tokens, 3 p p]), bytes centered by 128; overwritten by the next."""
        step = _crops_at_once(crop)
        raw = crop.dtype == torch.uint8
        word = min(16, patch & -patch)
        words = raw and crop.is_contiguous() and crop.data_ptr() % word == 0 and crop.storage_offset() % word == 0
        if words:
            # By way of one dimension: a contiguous tensor may have any stride where a size is 1, which `view` refuses.
            pixels = crop.view(-1).view(WORDS[word]).view(*crop.shape[:3], -1)
            cut = _cut(pixels, patch, patch // word)
        else:
            cut = _cut(crop, patch, patch)
        for start in range(0, crop.shape[0], step):
            part = cut[start : start + step]
            count = crop[start : start + step].numel()
            numbers = self._numbers[:count]
            if words:
                # A word at a time, then one conversion of the whole; byte - 128 is the byte with its top bit flipped.
                self._bytes.view(WORDS[word])[: part.numel()].view(part.shape).copy_(part)
                self._bytes[: -(-count // 8) * 8].view(torch.int64).bitwise_xor_(TOP_BITS)
                numbers.copy_(self._bytes[:count].view(torch.int8))
            else:
                numbers.view(part.shape).copy_(part)
                if raw:
                    numbers -= BYTE_CENTER
            yield slice(start, start + part.shape[0]), numbers.view(-1, crop.shape[1] * patch * patch)


def _crops_at_once(crop: Tensor) -> int:
    return min(crop.shape[0], max(1, CHUNK_ELEMENTS // crop.shape[1:].numel()))


def _cut(crop: Tensor, down: int, across: int) -> Tensor:
    """[M, 3, H, W] -> the view [M, H / down, W / across, 3, down, across]."""
    return crop.unflatten(3, (-1, across)).unflatten(2, (-1, down)).permute(0, 2, 4, 1, 3, 5)
