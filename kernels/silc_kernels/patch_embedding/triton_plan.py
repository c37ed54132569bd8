"""What a call of patch_embed launches, worked out once for each set of shapes: tiles, grids, sizes, descriptors."""

import functools
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common import triton_runtime as runtime
from ..common.launcher import Launcher, launcher
from . import triton_gradient_kernels as patches_gradient_kernels
from . import triton_kernels as patches_kernels
from .torch_backend import BYTE_CENTER
from .triton_launch import LaunchConfig, Lines, bulk_block, gradient_lines, padded, projected_lines, split_rows

UNFOLD_BLOCK = {"BLOCK_K": 256, "BLOCK_D": 8, "BLOCK_T": 64}
FOLD_BLOCK = 1024
COMPUTE = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
PLANS = 1024  # kept, each way


class Folding(NamedTuple):
    """(byte / 255 - mean) / std = scale relative (byte - 128) + offset, by channel; of no effect on float crops."""

    scale: float
    relative: tuple[float, float, float]
    offset: tuple[float, float, float]

    @property
    def gains(self) -> tuple[float, ...]:
        """Of each channel: scale relative."""
        return tuple(self.scale * relative for relative in self.relative)


@functools.lru_cache
def folding(raw: bool, mean: tuple[float, ...], std: tuple[float, ...]) -> Folding:
    """For bytes if `raw`."""
    if not raw:
        return Folding(1.0, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    first, second, third = ((BYTE_CENTER / 255 - m) / s for m, s in zip(mean, std, strict=True))
    return Folding(1 / (255 * std[0]), (1.0, std[0] / std[1], std[0] / std[2]), (first, second, third))


class Pixels(NamedTuple):
    """What launches depend on, of the crops of one resolution."""

    shape: tuple[int, ...]  # [M, 3, H, W]
    strides: tuple[int, ...]
    raw: bool
    at_16: bool  # the first byte lies at a multiple of 16

    @classmethod
    def of(cls, crop: Tensor) -> "Pixels":
        return cls(crop.shape, crop.stride(), crop.dtype == torch.uint8, crop.data_ptr() % 16 == 0)

    @property
    def unit(self) -> int:
        """16 where crops, channels and lines begin at multiples of 16 pixels, else 1."""
        return 16 if all(stride % 16 == 0 and stride < 2**31 for stride in self.strides[:3]) else 1

    @property
    def in_units(self) -> tuple[int, ...]:
        """The strides as the kernels take them."""
        return (*(stride // self.unit for stride in self.strides[:3]), self.strides[3])

    @property
    def scattered(self) -> bool:
        """Pixels of a line lie apart, as in channels_last: each has an address of its own."""
        return self.strides[3] != 1

    def block(self, patch: int, rows: int) -> tuple[int, int] | None:
        """(down, across) of a tile of `rows` patches that the copy engine can cut, None where it cannot."""
        _, channels, height, width = self.shape
        packed = (channels * height * width, height * width, width, 1)
        # Of a dimension of size 1 the stride has no meaning.
        fits = all(
            size == 1 or stride == want for size, stride, want in zip(self.shape, self.strides, packed, strict=True)
        )
        return bulk_block(self.shape, patch, rows) if fits and self.raw and self.at_16 else None


class Descriptor(NamedTuple):
    """Of bytes as [3 M, p, rows of patches, W], to be loaded as [1, lines, down, across p]."""

    shape: list[int]
    strides: list[int]
    block: list[int]

    @classmethod
    def of(cls, pixels: Pixels, lines: Lines, block: tuple[int, int]) -> "Descriptor":
        crops, channels, height, width = pixels.shape
        patch = lines.row
        shape = [crops * channels, patch, height // patch, width]
        strides = [height * width, width, patch * width, 1]
        return cls(shape, strides, [1, lines.lines, block[0], block[1] * patch])


class Launch(NamedTuple):
    """One launch: of a resolution, or of all."""

    run: Launcher
    grid: tuple[int, ...]
    sizes: tuple[int, ...]
    descriptor: Descriptor | None = None


class ForwardPlan(NamedTuple):
    """depth: padded pixels of a patch. pitch: the width, padded. counts: rows of each resolution, of `rows` in all."""

    depth: int
    pitch: int
    rows: int
    counts: list[int]
    fold: Launch
    project: tuple[Launch, ...]
    weight_block: list[int]


@functools.lru_cache(PLANS)
def forward_plan(
    config: LaunchConfig, dtype: torch.dtype, patch: int, width: int, before: int, groups: tuple[Pixels, ...]
) -> ForwardPlan:
    """dtype: of the products. before: prefix tokens."""
    lines, pitch = projected_lines(patch, config.depth), padded(width)
    counts = [pixels.shape[0] * (before + _tokens(pixels, patch)) for pixels in groups]
    fold = {"PATCH": patch, "ROW": lines.row, "LINES": lines.blocks * lines.lines, "BLOCK": FOLD_BLOCK, "num_warps": 4}
    return ForwardPlan(
        lines.depth,
        pitch,
        sum(counts),
        counts,
        Launch(launcher(patches_kernels.fold, **fold), (pitch,), (width,)),
        tuple(_project(config, dtype, patch, pitch, before, pixels) for pixels in groups),
        [config.columns, lines.lines * lines.row],
    )


def _project(config: LaunchConfig, dtype: torch.dtype, patch: int, width: int, before: int, pixels: Pixels) -> Launch:
    lines, tokens = projected_lines(patch, config.depth), _tokens(pixels, patch)
    block = pixels.block(patch, config.rows) if config.bulk else None
    rows = triton.cdiv(pixels.shape[0] * tokens, config.rows)
    grid = (rows * triton.cdiv(width, config.columns),)
    sizes = (tokens, pixels.shape[3] // patch, width, before)
    if block:
        options = project_bulk_constants(lines, config, dtype, block) | _options(config)
        run = launcher(patches_kernels.project_bulk, **options)
        return Launch(run, grid, sizes, Descriptor.of(pixels, lines, block))
    options = project_constants(patch, lines, config, dtype, pixels.raw, pixels.unit) | _options(config)
    return Launch(launcher(patches_kernels.project, **options), grid, (pixels.shape[0], *sizes, *pixels.in_units))


class BackwardPlan(NamedTuple):
    """pitch: the width, padded. partial: shape of the partial sums. order: of the resolutions, bytes first."""

    pitch: int
    partial: tuple[int, int, int]
    counts: list[int]
    order: tuple[int, ...]
    gradient: tuple[Launch, ...]
    grad_block: list[int]
    unfold: Launch


@functools.lru_cache(PLANS)
def backward_plan(
    config: LaunchConfig,
    dtype: torch.dtype,
    multiprocessors: int,
    patch: int,
    width: int,
    before: int,
    groups: tuple[Pixels, ...],
    bulk: bool,
) -> BackwardPlan:
    """dtype: of the products. bulk: whether the copy engine can bring the gradients."""
    lines, pitch = gradient_lines(patch, config.depth), padded(width)
    tokens = [_tokens(pixels, patch) for pixels in groups]
    wanted = multiprocessors // (lines.blocks * 3 * triton.cdiv(pitch, config.columns))
    order = sorted(range(len(groups)), key=lambda i: not groups[i].raw)
    launches, splits, raw_splits, raw_tokens = [], 0, 0, 0
    for i in order:
        length, count = split_rows(groups[i].shape[0] * tokens[i], config.rows, wanted)
        launches.append(_gradient(config, dtype, patch, pitch, before, groups[i], (length, splits, count), bulk))
        splits += count
        raw_splits += count * groups[i].raw
        raw_tokens += tokens[i] * groups[i].raw
    unfold = {"PATCH": patch, "ROW": lines.row, "LINES": lines.blocks * lines.lines} | UNFOLD_BLOCK | {"num_warps": 4}
    grid = (
        3 * triton.cdiv(lines.depth // 3, UNFOLD_BLOCK["BLOCK_K"]),
        triton.cdiv(width, UNFOLD_BLOCK["BLOCK_D"]),
    )
    sizes = (raw_splits, splits, raw_tokens, sum(tokens), len(groups), before, width, pitch)
    return BackwardPlan(
        pitch,
        (splits, lines.depth, pitch),
        [pixels.shape[0] * (before + count) for pixels, count in zip(groups, tokens, strict=True)],
        tuple(order),
        tuple(launches),
        [config.rows, config.columns],
        Launch(launcher(patches_gradient_kernels.unfold, **unfold), grid, sizes),
    )


def _gradient(
    config: LaunchConfig,
    dtype: torch.dtype,
    patch: int,
    width: int,
    before: int,
    pixels: Pixels,
    splits: tuple[int, int, int],
    bulk: bool,
) -> Launch:
    length, first, count = splits
    lines = gradient_lines(patch, config.depth)
    block = pixels.block(patch, config.rows) if config.bulk and bulk else None
    grid = (3 * lines.blocks * triton.cdiv(width, config.columns), count)
    sizes = (pixels.shape[0], _tokens(pixels, patch), pixels.shape[3] // patch, width, before, length, first)
    if block:
        options = gradient_bulk_constants(lines, config, dtype, block) | _options(config)
        run = launcher(patches_gradient_kernels.gradient_bulk, **options)
        return Launch(run, grid, sizes, Descriptor.of(pixels, lines, block))
    options = gradient_constants(patch, lines, config, dtype, pixels.raw, pixels.unit) | _options(config)
    return Launch(launcher(patches_gradient_kernels.gradient, **options), grid, (*sizes, *pixels.in_units))


def _tokens(pixels: Pixels, patch: int) -> int:
    return (pixels.shape[2] // patch) * (pixels.shape[3] // patch)


def _options(config: LaunchConfig) -> dict[str, Any]:
    return {"num_warps": config.num_warps, "num_stages": config.num_stages}


def project_constants(
    patch: int, lines: Lines, config: LaunchConfig, dtype: torch.dtype, raw: bool, unit: int
) -> dict[str, Any]:
    return {
        "PATCH": patch,
        "ROW": lines.row,
        "LINES": lines.lines,
        "STEPS": 3 * lines.blocks,
        "RAW": raw,
        "UNIT": unit,
        "COMPUTE": COMPUTE[runtime.product_dtype(dtype)],
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
        "COMPUTE": COMPUTE[runtime.product_dtype(dtype)],
        "DOWN": block[0],
        "ACROSS": block[1],
        "BLOCK_N": config.columns,
        "PARTS": config.parts,
        "WAIT": config.wait,
    }


def gradient_constants(
    patch: int, lines: Lines, config: LaunchConfig, dtype: torch.dtype, raw: bool, unit: int
) -> dict[str, Any]:
    return {
        "PATCH": patch,
        "ROW": lines.row,
        "LINES": lines.lines,
        "BLOCKS": lines.blocks,
        "RAW": raw,
        "UNIT": unit,
        "COMPUTE": COMPUTE[runtime.product_dtype(dtype)],
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
        "COMPUTE": COMPUTE[runtime.product_dtype(dtype)],
        "DOWN": block[0],
        "ACROSS": block[1],
        "BLOCK_D": config.columns,
        "WAIT": config.wait,
    }
