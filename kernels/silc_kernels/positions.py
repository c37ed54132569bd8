"""Position tables at other resolutions: one fixed matrix per pair of grids, so that resizing is a matrix product."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]


@lru_cache(maxsize=64)
def resize_matrix(grid_in: Grid, grid_out: Grid, device: torch.device) -> Tensor:
    """The linear map of an antialiased bicubic resize, fp32 [rows_out * cols_out, rows_in * cols_in].

    It is the interpolation of the unit vectors, so ``resize_matrix @ table`` equals interpolating the table, and its
    transpose, one product as well, is the gradient.
    """
    # A matrix first made during inference must still serve a later training step.
    with torch.inference_mode(False), torch.no_grad():
        tokens_in = grid_in[0] * grid_in[1]
        units = torch.eye(tokens_in).view(tokens_in, 1, *grid_in)
        resized = F.interpolate(units, size=grid_out, mode="bicubic", antialias=True)
        return resized.view(tokens_in, -1).t().contiguous().to(device)


@torch.compiler.assume_constant_result  # a matrix made while tracing is one of the compiled graph's constants
def _matrix(grid_in: Grid, grid_out: Grid, device: torch.device) -> Tensor:
    return resize_matrix(grid_in, grid_out, device)


def resize_positions(table: Tensor, grid_in: Grid, grid_out: Grid) -> Tensor:
    """Resize a position table, differentiably: [1, rows_in * cols_in, D] -> [rows_out * cols_out, D], in fp32 inside.

    The same values as timm's ``resample_abs_pos_embed`` (bicubic, antialias).
    """
    positions = table[0]
    if grid_in == grid_out:
        return positions
    matrix = _matrix(grid_in, grid_out, table.device)
    precise = torch.promote_types(table.dtype, matrix.dtype)
    return (matrix.to(precise) @ positions.to(precise)).to(table.dtype)
