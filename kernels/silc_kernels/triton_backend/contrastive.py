"""contrastive_loss in Triton: the passes of similarities.py over tiles of `contrastive_kernels`.

Two kernels find the log-sum-exps and G. The products with G are the vendor's: at width 768 an accumulator of 128 rows
in float32 does not fit on a chip, so a kernel of our own would read its features many times over.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from ..contrastive_op import define
from ..similarities import Tile
from . import contrastive_kernels as kernels
from .gate import ARCHITECTURES, Candidate
from .runtime import capability, product_dtype

# Similarities in a tile of G: 32 MiB in bfloat16, which with its features stays within the 50 MiB of an H100's L2.
ELEMENTS = 1 << 24
# G <= 2 in float16: most probabilities of a batch of 32k would be subnormal, so it is stored this much larger.
UNIT_OF_FLOAT16 = 2.0**14
MERGED, PARTS = 128, 32


class Block(NamedTuple):
    """Similarities a program finds, and how. bulk: features come by the copy engine (needs rows of 16 bytes)."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    bulk: bool


def blocks(architecture: int, itemsize: int) -> tuple[Block, ...]:
    """What ships, the preferred one first.

    On sm_90 two programs of the softmax's 16-bit tiles fit on a multiprocessor, so that the exponentials of one run
    beside the products of the other. Not tuned on a GPU yet.
    """
    if itemsize == 4:
        return (Block(64, 64, 32, 4, 3, False),)
    if architecture < 90:
        return (Block(128, 128, 32, 8, 4, False),)
    return Block(128, 128, 64, 8, 3, True), Block(128, 128, 64, 8, 3, False)


class TritonTiles:
    """`silc_kernels.similarities.Tiles` by the kernels: features multiplied in their own dtype, summed in float32."""

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
        grid, features, options = _launch(tile)
        row_parts, column_parts = rows.new_empty(grid[1], rows.numel()), rows.new_empty(grid[0], columns.numel())
        kernels.log_sum_exp_kernel[grid](
            *features, self._scale, row_parts, column_parts, positives, *_sizes(tile), *tile[2:5], **options
        )
        programs = triton.cdiv(rows.numel(), MERGED) + triton.cdiv(columns.numel(), MERGED)
        kernels.merge_kernel[(programs,)](
            row_parts, column_parts, rows, columns, *grid, rows.numel(), columns.numel(), BLOCK=MERGED, PARTS=PARTS
        )

    def softmax_gradient(self, tile: Tile, rows: Tensor, columns: Tensor) -> Tensor:
        grid, features, options = _launch(tile)
        gradient, unit = _empty_gradient(tile)
        outputs = gradient, self._sums_of(grid)
        kernels.softmax_gradient_kernel[grid](
            *features, self._scale, rows, columns, *outputs, *_sizes(tile), *tile[2:5], unit, **options
        )
        return gradient

    def sigmoid_gradient(self, tile: Tile, counted: bool) -> Tensor:
        grid, features, options = _launch(tile)
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


contrastive_loss = define("triton", TritonTiles)


def _launch(tile: Tile) -> tuple[tuple[int, int], tuple[Any, Any], dict[str, Any]]:
    """Grid, features as the kernels take them, and the options of a launch."""
    features = tile.images, tile.texts
    block = _block(features)
    grid = triton.cdiv(len(tile.images), block.rows), triton.cdiv(len(tile.texts), block.columns)
    if block.bulk:
        heights = block.rows, block.columns
        features = tuple(
            TensorDescriptor.from_tensor(x, [height, block.depth]) for x, height in zip(features, heights, strict=True)
        )
    return grid, features, _options(block, tile.images.dtype)


def _block(features: tuple[Tensor, Tensor]) -> Block:
    dtype = features[0].dtype
    in_lines = all(x.data_ptr() % 16 == 0 and x.stride(0) * dtype.itemsize % 16 == 0 for x in features)
    shipped = blocks(capability(features[0].device), dtype.itemsize)
    return next(block for block in shipped if in_lines or not block.bulk)


def _options(block: Block, dtype: torch.dtype) -> dict[str, Any]:
    compute = getattr(tl, str(product_dtype(dtype)).removeprefix("torch."))
    sizes = {"ROWS": block.rows, "COLUMNS": block.columns, "DEPTH": block.depth}
    return {"BULK": block.bulk, "COMPUTE": compute, **sizes, "num_warps": block.warps, "num_stages": block.stages}


def _sizes(tile: Tile) -> tuple[int, int, int]:
    return len(tile.images), len(tile.texts), tile.images.shape[1]


def _empty_gradient(tile: Tile) -> tuple[Tensor, float]:
    """G, to be written, and the unit it is stored in."""
    dtype = product_dtype(tile.images.dtype)
    return tile.images.new_empty(len(tile.images), len(tile.texts), dtype=dtype), _unit(dtype)


def _unit(dtype: torch.dtype) -> float:
    return UNIT_OF_FLOAT16 if dtype == torch.float16 else 1.0


def gate_candidates() -> Iterator[Candidate]:
    """Every kernel with every shipped tile, at a batch whose sizes are multiples of 16."""
    for dtype in (torch.bfloat16, torch.float32):
        shipped: dict[Block, list[int]] = {}
        for architecture in ARCHITECTURES:
            for block in blocks(architecture, dtype.itemsize):
                shipped.setdefault(block, []).append(architecture)
        for block, architectures in shipped.items():
            yield from _candidates(block, dtype, tuple(architectures))
    pointers = ("row_parts", "column_parts", "rows", "columns")
    sizes = ("row_tiles", "column_tiles", "n_rows", "n_columns")
    yield Candidate(
        name=f"contrastive_loss/merge/{MERGED}x{PARTS}",
        kernel=kernels.merge_kernel,
        signature=dict.fromkeys(pointers, "*fp32") | dict.fromkeys(sizes, "i32"),
        constexprs={"BLOCK": MERGED, "PARTS": PARTS},
        aligned=(*pointers, "n_rows", "n_columns"),
    )


def _candidates(block: Block, dtype: torch.dtype, architectures: tuple[int, ...]) -> Iterator[Candidate]:
    name = "bf16" if dtype == torch.bfloat16 else "fp32"
    half = dtype.itemsize == 2
    features = {"images": f"*{name}", "texts": f"*{name}"}
    if block.bulk:
        features = {
            "images": f"tensordesc<{name}[{block.rows}, {block.depth}]>",
            "texts": f"tensordesc<{name}[{block.columns}, {block.depth}]>",
        }
    scalars = {"scale": "*fp32"}
    outputs = {"gradient": f"*{name}", "sums": "*fp32"}
    sizes = dict.fromkeys(("n_rows", "n_columns", "width"), "i32")
    matching = dict.fromkeys(("first_row", "first_column", "pairs"), "i32")
    totals = {"row_totals": "*fp32", "column_totals": "*fp32"}
    parts = dict.fromkeys(("row_parts", "column_parts", "positives"), "*fp32")
    launches = {
        kernels.log_sum_exp_kernel: features | scalars | parts | sizes | matching,
        kernels.softmax_gradient_kernel: features | scalars | totals | outputs | sizes | matching | {"unit": "fp32"},
        kernels.sigmoid_gradient_kernel: features
        | scalars
        | {"bias": "*fp32"}
        | outputs
        | sizes
        | matching
        | {"counted": "i32", "unit": "fp32"},
    }
    options = _options(block, dtype)
    warps, stages = options.pop("num_warps"), options.pop("num_stages")
    tile = f"{name}-{block.rows}x{block.columns}x{block.depth}{'-bulk' if block.bulk else ''}"
    for kernel, signature in launches.items():
        aligned = tuple(key for key, kind in signature.items() if kind.startswith("*") or key in sizes)
        yield Candidate(
            name=f"contrastive_loss/{kernel.__name__.removesuffix('_kernel')}/{tile}",
            kernel=kernel,
            signature=signature,
            constexprs=options,
            aligned=aligned,
            num_warps=warps,
            num_stages=stages,
            architectures=architectures,
            wgmma=half,
            bulk_copies=block.bulk,
            async_copies=half,
        )
