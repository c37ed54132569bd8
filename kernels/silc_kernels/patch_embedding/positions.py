"""Position tables at other resolutions: one fixed matrix per pair of grids, so that resizing is a matrix product."""

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..common.checks import check_grid, check_shape
from ..common.dispatch import without_autocast
from ..common.transforms import refuse_transforms

Grid = tuple[int, int]


@lru_cache(maxsize=64)
def resize_matrix(grid_in: Grid, grid_out: Grid, device: torch.device) -> Tensor:
    """The linear map of an antialiased bicubic resize, fp32 [rows_out * cols_out, rows_in * cols_in].

    It is the interpolation of the unit vectors, so ``resize_matrix @ table`` equals interpolating the table, and its
    transpose, one product as well, is the gradient.
    """
    # A matrix first made during inference must still serve a later training step, whatever the defaults then are.
    with torch.inference_mode(False), torch.no_grad():
        tokens_in = grid_in[0] * grid_in[1]
        units = torch.eye(tokens_in, dtype=torch.float32, device="cpu").view(tokens_in, 1, *grid_in)
        resized = F.interpolate(units, size=grid_out, mode="bicubic", antialias=True)
        return resized.view(tokens_in, -1).t().contiguous().to(device)


@torch.library.custom_op("silc_kernels::resize_positions", mutates_args=())
def _resize(table: Tensor, grid_in: Sequence[int], grid_out: Sequence[int], transposed: bool) -> Tensor:
    """The matrix, or its transpose, times table [tokens, D], in its dtype; fp32 inside.

    An operator, so that compilers see neither the cache nor which grids there are, and fake tensors never enter it.
    """
    matrix = resize_matrix(tuple(grid_in), tuple(grid_out), table.device)
    precise = torch.promote_types(table.dtype, matrix.dtype)
    matrix = matrix.t() if transposed else matrix
    with without_autocast(table.device):
        return (matrix.to(precise) @ table.to(precise)).to(table.dtype)


@_resize.register_fake
def _(table, grid_in, grid_out, transposed):
    return table.new_empty(prod(grid_in if transposed else grid_out), table.shape[1])


def _keep(ctx: Any, inputs: tuple, output: Tensor) -> None:
    _, *ctx.how = inputs


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grid_in, grid_out, transposed = ctx.how
    return _resize(grad, grid_in, grid_out, not transposed), None, None, None


_resize.register_autograd(_backward, setup_context=_keep)


def resize_positions(table: Tensor, grid_in: Grid, grid_out: Grid) -> Tensor:
    """Resize a position table, differentiably: [1, rows_in * cols_in, D] -> [rows_out * cols_out, D], in fp32 inside.

    The same values as timm's ``resample_abs_pos_embed`` (bicubic, antialias).

    Raises:
        ValueError: a table of another shape, or a grid without rows or columns.
    """
    refuse_transforms("resize_positions", (table,))
    check_grid("resize_positions", "grid_in", grid_in)
    check_grid("resize_positions", "grid_out", grid_out)
    check_shape("resize_positions", "table", table, (1, grid_in[0] * grid_in[1], None), "[1, rows_in * cols_in, D]")
    if grid_in == grid_out:
        return table[0]
    return _resize(table[0], grid_in, grid_out, False)
