"""patch_embed in plain torch: per resolution, a copy into patch rows and one matrix product, some crops at a time."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Numbers of the patch matrix held at a time: 4 MiB of float32, so that it is multiplied while still in the cache.
CHUNK_ELEMENTS = 1 << 20
BYTE_CENTER = 128


def patch_embed(
    crops: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor,
    positions: Sequence[Tensor],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    prefix: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Plain-torch `silc_kernels.patch_embed`; arguments are not checked."""
    out_dtype = weight.dtype if out_dtype is None else out_dtype
    return _PatchEmbed.apply(tuple(crops), weight, bias, prefix, (tuple(mean), tuple(std)), out_dtype, *positions)


class _PatchEmbed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, crops, weight, bias, prefix, statistics, out_dtype, *positions):
        dtype = torch.promote_types(weight.dtype, torch.float32)
        gain, offset = _folding(weight, *statistics)
        plain = weight.to(dtype)
        folded = (plain * gain).flatten(1).t()
        folded_bias = bias.to(dtype) + (plain * offset).sum((1, 2, 3))
        before = 0 if prefix is None else prefix.shape[0]
        tokens = [table.shape[0] for table in positions]
        rows = sum(crop.shape[0] * (before + count) for crop, count in zip(crops, tokens, strict=True))
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
        ctx.save_for_backward(*crops, weight)
        ctx.statistics, ctx.before, ctx.tokens = statistics, before, tokens
        ctx.dtypes = bias.dtype, [table.dtype for table in positions], None if prefix is None else prefix.dtype
        return packed

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        *crops, weight = ctx.saved_tensors
        dtype = torch.promote_types(weight.dtype, torch.float32)
        width, _, patch, _ = weight.shape
        gain, offset = _folding(weight, *ctx.statistics)
        d_folded = torch.zeros(2, width, 3 * patch * patch, dtype=dtype, device=weight.device)
        d_bias = torch.zeros(2, width, dtype=dtype, device=weight.device)
        d_prefix = torch.zeros(ctx.before, width, dtype=dtype, device=weight.device)
        d_positions = []
        start = 0
        for crop, tokens in zip(crops, ctx.tokens, strict=True):
            end = start + crop.shape[0] * (ctx.before + tokens)
            group = grad[start:end].view(crop.shape[0], ctx.before + tokens, width)
            start = end
            raw = int(crop.dtype == torch.uint8)
            d_prefix += group[:, : ctx.before].sum(0, dtype=dtype)
            d_positions.append(group[:, ctx.before :].sum(0, dtype=dtype))
            d_bias[raw] += d_positions[-1].sum(0)
            for part, patches in _patches(crop, patch, dtype):
                rows = group[part, ctx.before :].to(dtype).reshape(-1, width)
                d_folded[raw].addmm_(rows.t(), patches)
        d_plain, d_raw = d_folded.view(2, *weight.shape)
        d_weight = d_plain + d_raw * gain + d_bias[1].view(-1, 1, 1, 1) * offset
        bias_dtype, table_dtypes, prefix_dtype = ctx.dtypes
        return (
            None,
            d_weight.to(weight.dtype),
            d_bias.sum(0).to(bias_dtype),
            None if prefix_dtype is None else d_prefix.to(prefix_dtype),
            None,
            None,
            *(d.to(want) for d, want in zip(d_positions, table_dtypes, strict=True)),
        )


def _folding(weight: Tensor, mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    """gain, offset, [1, 3, 1, 1] each: (byte / 255 - mean) / std = gain (byte - 128) + offset."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    gain = [1 / (255 * s) for s in std]
    offset = [(BYTE_CENTER / 255 - m) / s for m, s in zip(mean, std, strict=True)]
    return tuple(torch.tensor(v, dtype=dtype, device=weight.device).view(1, 3, 1, 1) for v in (gain, offset))


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
    words = raw and patch % 8 == 0 and crop.is_contiguous() and crop.data_ptr() % 8 == 0
    cut = _cut(crop.view(torch.int64), patch, patch // 8) if words else _cut(crop, patch, patch)
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
