"""patch_embed by Triton: buffers and launches. patches_kernels.py says what is computed."""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from ..common import triton_runtime as runtime
from . import triton_gradient_kernels as patches_gradient_kernels
from . import triton_kernels as patches_kernels
from .torch_backend import BYTE_CENTER
from .triton_launch import LaunchConfig, Lines, bulk_block, gradient_lines, launch_config, projected_lines, split_rows

UNFOLD_BLOCK = {"BLOCK_K": 256, "BLOCK_D": 8}
FOLD_BLOCK = 1024
COMPUTE = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@dataclass(frozen=True)
class Folding:
    """(byte / 255 - mean) / std = scale relative (byte - 128) + offset, by channel; of no effect on float crops."""

    scale: float
    relative: tuple[float, float, float]
    offset: tuple[float, float, float]

    @classmethod
    def of(cls, raw: bool, mean: list[float], std: list[float]) -> "Folding":
        if not raw:
            return cls(1.0, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
        first, second, third = ((BYTE_CENTER / 255 - m) / s for m, s in zip(mean, std, strict=True))
        return cls(1 / (255 * std[0]), (1.0, std[0] / std[1], std[0] / std[2]), (first, second, third))


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
    """See `ops._module`. Products in `out_dtype`, sums in float32."""
    width, _, patch, _ = weight.shape
    before = 0 if prefix is None else prefix.shape[0]
    kept = out_dtype if out_dtype in runtime.DTYPES else torch.float32
    config = launch_config("project", weight.device, kept, patch)
    lines = projected_lines(patch, config.depth)
    counts = [crop.shape[0] * (before + table.shape[0]) for crop, table in zip(crops, positions, strict=True)]
    packed = torch.empty(sum(counts), width, dtype=runtime.product_dtype(kept), device=weight.device)
    folded = {}
    with torch.cuda.device_of(weight):
        for crop, table, out in zip(crops, positions, packed.split(counts), strict=True):
            if prefix is not None:
                out.view(crop.shape[0], -1, width)[:, :before] = prefix
            raw = crop.dtype == torch.uint8
            folding = Folding.of(raw, mean, std)
            if raw not in folded:
                folded[raw] = _fold(weight.contiguous(), bias.contiguous(), folding, lines, packed.dtype)
            operands = (*folded[raw], table.contiguous(), out)
            block = bulk_block(crop, patch, config.rows, width) if config.bulk else None
            if block:
                _project_bulk(crop, operands, folding.scale, before, lines, config, block)
            else:
                _project(crop, operands, folding.scale, before, patch, lines, config)
    return packed.to(out_dtype)


def _fold(weight: Tensor, bias: Tensor, folding: Folding, lines: Lines, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """-> folded weight [D, depth] in `dtype`, folded bias [D] in fp32."""
    width, _, patch, _ = weight.shape
    folded = torch.empty(width, lines.depth, dtype=dtype, device=weight.device)
    folded_bias = torch.empty(width, dtype=torch.float32, device=weight.device)
    constants = {"PATCH": patch, "ROW": lines.row, "LINES": lines.blocks * lines.lines, "BLOCK": FOLD_BLOCK}
    patches_kernels.fold[(width,)](
        weight, bias, folded, folded_bias, *folding.relative[1:], *folding.offset, **constants, num_warps=4
    )
    return folded, folded_bias


def _project(
    crop: Tensor,
    operands: tuple[Tensor, ...],
    scale: float,
    before: int,
    patch: int,
    lines: Lines,
    config: LaunchConfig,
) -> None:
    table, out = operands[2:]
    tokens, width = table.shape
    grid = (triton.cdiv(crop.shape[0] * tokens, config.rows) * triton.cdiv(width, config.columns),)
    patches_kernels.project[grid](
        crop,
        *operands,
        scale,
        crop.shape[0],
        tokens,
        crop.shape[3] // patch,
        width,
        before,
        *crop.stride(),
        **project_constants(patch, lines, config, out.dtype, crop.dtype == torch.uint8),
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )


def _project_bulk(
    crop: Tensor,
    operands: tuple[Tensor, ...],
    scale: float,
    before: int,
    lines: Lines,
    config: LaunchConfig,
    block: tuple[int, int],
) -> None:
    folded, bias, table, out = operands
    tokens, width = table.shape
    grid = (crop.shape[0] * tokens // config.rows * triton.cdiv(width, config.columns),)
    patches_kernels.project_bulk[grid](
        _describe(crop, lines, block),
        TensorDescriptor.from_tensor(folded, [config.columns, lines.lines * lines.row]),
        bias,
        table,
        out,
        scale,
        tokens,
        crop.shape[3] // lines.row,
        width,
        before,
        **project_bulk_constants(lines, config, out.dtype, block),
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )


def _describe(crop: Tensor, lines: Lines, block: tuple[int, int]) -> TensorDescriptor:
    """Bytes as [3 M, p, rows of patches, W], to be loaded as [1, lines, down, across p] with (down, across) = block."""
    crops, channels, height, width = crop.shape
    patch = lines.row
    shape = [crops * channels, patch, height // patch, width]
    strides = [height * width, width, patch * width, 1]
    return TensorDescriptor(crop, shape, strides, [1, lines.lines, block[0], block[1] * patch])


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
    """See `ops._module`. Products in grad's dtype, sums in float32."""
    grad = (grad if grad.dtype in runtime.DTYPES else grad.float()).contiguous()
    width, device = grad.shape[-1], grad.device
    config = launch_config("gradient", device, grad.dtype, patch)
    lines = gradient_lines(patch, config.depth)
    programs = lines.blocks * 3 * triton.cdiv(width, config.columns)
    wanted = runtime.multiprocessors(device) // programs
    counts = [crop.shape[0] * (before + count) for crop, count in zip(crops, tokens, strict=True)]
    parts = list(grad.split(counts))
    splits = [split_rows(len(crop) * count, config.rows, wanted) for crop, count in zip(crops, tokens, strict=True)]
    # Bytes first: `unfold` adds up the two kinds separately.
    order = sorted(range(len(crops)), key=lambda i: crops[i].dtype != torch.uint8)
    raw_splits = sum(splits[i][1] for i in order if crops[i].dtype == torch.uint8)
    partial = torch.empty(sum(count for _, count in splits), lines.depth, width, dtype=torch.float32, device=device)
    d_positions: dict[int, Tensor] = {}
    d_bias, d_prefix = (torch.zeros(rows, width, dtype=torch.float32, device=device) for rows in (2, before))
    start = 0
    with torch.cuda.device_of(grad):
        for i in order:
            length, count = splits[i]
            end = start + count
            _gradient(crops[i], parts[i], partial[start:end], tokens[i], before, patch, lines, config, length)
            start = end
            rows = parts[i].view(len(crops[i]), -1, width)
            if before:
                d_prefix += rows[:, :before].sum(0, dtype=torch.float32)
            d_positions[i] = rows[:, before:].sum(0, dtype=torch.float32)
            d_bias[int(crops[i].dtype == torch.uint8)] += d_positions[i].sum(0)
        d_weight = _unfold(partial, d_bias[1], raw_splits, Folding.of(True, mean, std), patch, lines)
    return [d_weight, d_bias.sum(0), d_prefix, *(d_positions[i] for i in range(len(crops)))]


def _gradient(
    crop: Tensor,
    grad: Tensor,
    partial: Tensor,
    tokens: int,
    before: int,
    patch: int,
    lines: Lines,
    config: LaunchConfig,
    length: int,
) -> None:
    splits, _, width = partial.shape
    sizes = (crop.shape[0], tokens, crop.shape[3] // patch, width, before, length)
    bulk = config.bulk and grad.data_ptr() % 16 == 0
    block = bulk_block(crop, patch, config.rows, width) if bulk else None
    grid = (3 * lines.blocks * triton.cdiv(width, config.columns), splits)
    launch = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    if block:
        patches_gradient_kernels.gradient_bulk[grid](
            _describe(crop, lines, block),
            TensorDescriptor.from_tensor(grad, [config.rows, config.columns]),
            partial,
            *sizes,
            **gradient_bulk_constants(lines, config, runtime.product_dtype(grad.dtype), block),
            **launch,
        )
    else:
        patches_gradient_kernels.gradient[grid](
            crop,
            grad,
            partial,
            *sizes,
            *crop.stride(),
            **gradient_constants(patch, lines, config, runtime.product_dtype(grad.dtype), crop.dtype == torch.uint8),
            **launch,
        )


def _unfold(partial: Tensor, raw_bias: Tensor, raw_splits: int, folding: Folding, patch: int, lines: Lines) -> Tensor:
    """Partials [splits, depth, D], the first `raw_splits` of bytes -> weight gradient [D, 3, p, p]."""
    splits, depth, width = partial.shape
    d_weight = torch.empty(width, 3, patch, patch, dtype=torch.float32, device=partial.device)
    gains = [folding.scale * relative for relative in folding.relative]
    constants = {"PATCH": patch, "ROW": lines.row, "LINES": lines.blocks * lines.lines} | UNFOLD_BLOCK
    grid = (3 * triton.cdiv(depth // 3, UNFOLD_BLOCK["BLOCK_K"]), triton.cdiv(width, UNFOLD_BLOCK["BLOCK_D"]))
    patches_gradient_kernels.unfold[grid](
        partial, raw_bias, d_weight, raw_splits, splits, width, *gains, *folding.offset, **constants, num_warps=4
    )
    return d_weight


def project_constants(patch: int, lines: Lines, config: LaunchConfig, dtype: torch.dtype, raw: bool) -> dict[str, Any]:
    return {
        "PATCH": patch,
        "ROW": lines.row,
        "LINES": lines.lines,
        "STEPS": 3 * lines.blocks,
        "RAW": raw,
        "COMPUTE": COMPUTE[dtype],
        "BLOCK_M": config.rows,
        "BLOCK_N": config.columns,
        "PARTS": config.parts,
        "WAIT": config.wait,
    }


def project_bulk_constants(
    lines: Lines, config: LaunchConfig, dtype: torch.dtype, block: tuple[int, int]
) -> dict[str, Any]:
    return {
        "PATCH": lines.row,
        "LINES": lines.lines,
        "STEPS": 3 * lines.blocks,
        "COMPUTE": COMPUTE[dtype],
        "DOWN": block[0],
        "ACROSS": block[1],
        "BLOCK_N": config.columns,
        "PARTS": config.parts,
        "WAIT": config.wait,
    }


def gradient_constants(patch: int, lines: Lines, config: LaunchConfig, dtype: torch.dtype, raw: bool) -> dict[str, Any]:
    return {
        "PATCH": patch,
        "ROW": lines.row,
        "LINES": lines.lines,
        "BLOCKS": lines.blocks,
        "RAW": raw,
        "COMPUTE": COMPUTE[dtype],
        "BLOCK_M": config.rows,
        "BLOCK_D": config.columns,
        "WAIT": config.wait,
    }


def gradient_bulk_constants(
    lines: Lines, config: LaunchConfig, dtype: torch.dtype, block: tuple[int, int]
) -> dict[str, Any]:
    return {
        "PATCH": lines.row,
        "LINES": lines.lines,
        "COMPUTE": COMPUTE[dtype],
        "DOWN": block[0],
        "ACROSS": block[1],
        "BLOCK_D": config.columns,
        "WAIT": config.wait,
    }
