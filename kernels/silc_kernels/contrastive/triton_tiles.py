"""contrastive_loss in Triton: the arithmetic on a tile for passes.py, by triton_kernels.py.

Two kernels find the log-sum-exps and G. The products with G are the vendor's: at width 768 an accumulator of 128 rows
in float32 does not fit on a chip, so a kernel of our own would read its features many times over.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from ..common.triton_runtime import capability, product_dtype
from . import triton_kernels as kernels
from . import triton_launch as table
from .passes import Tile

# Similarities in a tile of G: 32 MiB in bfloat16, which with its features stays within the 50 MiB of an H100's L2.
ELEMENTS = 1 << 24
# G <= 2 in float16: most probabilities of a batch of 32k would be subnormal, so it is stored this much larger.
UNIT_OF_FLOAT16 = 2.0**14


class TritonTiles:
    """`contrastive.passes.Tiles` by the kernels: features multiplied in their own dtype, summed in float32."""

    elements = ELEMENTS
    sums_products = True

    def __init__(self, scale: Tensor, bias: Tensor, seen_twice: int) -> None:
        self._scale, self._bias = scale, bias
        # Programs of a launch -> [3, programs], what each has summed so far.
        self._sums: dict[int, Tensor] = {}

    @staticmethod
    def operand(dtype: torch.dtype) -> torch.dtype:
        return dtype

    def add_log_sum_exps(self, tile: Tile, rows: Tensor, columns: Tensor, positives: Tensor) -> None:
        grid, features, options = _launch("log_sum_exp", tile)
        row_parts, column_parts = rows.new_empty(grid[1], rows.numel()), rows.new_empty(grid[0], columns.numel())
        kernels.log_sum_exp_kernel[grid](
            *features, self._scale, row_parts, column_parts, positives, *_sizes(tile), *tile[2:5], **options
        )
        programs = triton.cdiv(rows.numel(), table.MERGED) + triton.cdiv(columns.numel(), table.MERGED)
        kernels.merge_kernel[(programs,)](
            *(row_parts, column_parts, rows, columns, *grid, rows.numel(), columns.numel()),
            BLOCK=table.MERGED,
            PARTS=table.PARTS,
        )

    def softmax_gradient(self, tile: Tile, rows: Tensor, columns: Tensor) -> Tensor:
        grid, features, options = _launch("softmax_gradient", tile)
        gradient, unit = _empty_gradient(tile)
        outputs = gradient, self._sums_of(grid)
        kernels.softmax_gradient_kernel[grid](
            *features, self._scale, rows, columns, *outputs, *_sizes(tile), *tile[2:5], unit, **options
        )
        return gradient

    def sigmoid_gradient(self, tile: Tile, counted: bool) -> Tensor:
        grid, features, options = _launch("sigmoid_gradient", tile)
        gradient, unit = _empty_gradient(tile)
        scalars, outputs = (self._scale, self._bias), (gradient, self._sums_of(grid))
        kernels.sigmoid_gradient_kernel[grid](
            *features, *scalars, *outputs, *_sizes(tile), *tile[2:5], int(counted), unit, **options
        )
        return gradient

    def accumulate(self, total: Tensor, left: Tensor, right: Tensor) -> None:
        if left.dtype == total.dtype:
            total.addmm_(left, right.to(left.dtype))
        else:
            torch.addmm(total, left, right, torch.float32, alpha=1 / _unit(left.dtype), out=total)

    def sums(self) -> Tensor:
        return torch.stack([*(sums.sum(1) for sums in self._sums.values()), self._scale.new_zeros(3)]).sum(0)

    def _sums_of(self, grid: tuple[int, int]) -> Tensor:
        programs = grid[0] * grid[1]
        if programs not in self._sums:
            self._sums[programs] = self._scale.new_zeros(3, programs)
        return self._sums[programs]


def _launch(kernel: str, tile: Tile) -> tuple[tuple[int, int], tuple[Any, Any], dict[str, Any]]:
    """Grid, features as the kernel takes them, and the options of a launch."""
    features = images, texts = tile.images, tile.texts
    dtype, width = images.dtype, images.shape[1]
    # A single row counts as contiguous at any stride, also one that no descriptor takes.
    whole = width * dtype.itemsize % 16 == 0
    in_lines = whole and all(x.data_ptr() % 16 == 0 and x.stride(0) == width for x in features)
    config = table.launch_config(kernel, dtype.itemsize, capability(images.device), in_lines)
    grid = triton.cdiv(len(images), config.rows), triton.cdiv(len(texts), config.columns)
    if config.bulk:
        features = tuple(
            TensorDescriptor.from_tensor(x, [height, config.depth])
            for x, height in ((images, config.rows), (texts, config.columns))
        )
    compute = getattr(tl, str(product_dtype(dtype)).removeprefix("torch."))
    options = table.constants(config, compute) | {"num_warps": config.warps, "num_stages": config.stages}
    return grid, features, options


def _sizes(tile: Tile) -> tuple[int, int, int]:
    return len(tile.images), len(tile.texts), tile.images.shape[1]


def _empty_gradient(tile: Tile) -> tuple[Tensor, float]:
    """G, to be written, and the unit it is stored in."""
    dtype = product_dtype(tile.images.dtype)
    return tile.images.new_empty(len(tile.images), len(tile.texts), dtype=dtype), _unit(dtype)


def _unit(dtype: torch.dtype) -> float:
    return UNIT_OF_FLOAT16 if dtype == torch.float16 else 1.0
