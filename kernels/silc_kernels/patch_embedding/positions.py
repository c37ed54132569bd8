"""Position tables at other resolutions: one fixed matrix per pair of grids, so that resizing is a matrix product."""

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from ..common.checks import check_grid, check_shape
from ..common.dispatch import without_autocast
from ..common.transforms import refuse_transforms
from .direct import unwatched

Grid = tuple[int, int]
LIBRARY = torch.library.Library("silc_kernels", "FRAGMENT")
SCHEMA = "(Tensor table, SymInt[] grid_in, SymInt[] grid_out, bool transposed) -> Tensor"


MOST_KEPT = 64  # matrices; 4 MiB each between grids of 32 x 32
_KEPT: dict[tuple[Grid, Grid, torch.device], Tensor] = {}  # those used last come last
_HELD: dict[tuple[Grid, Grid, torch.device], Tensor] = {}  # never dropped: CUDA graphs hold their addresses


def resize_matrix(grid_in: Grid, grid_out: Grid, device: torch.device) -> Tensor:
    """The linear map of an antialiased bicubic resize, fp32 [rows_out * cols_out, rows_in * cols_in].

    It is the interpolation of the unit vectors, so ``resize_matrix @ table`` equals interpolating the table, and its
    transpose, one product as well, is the gradient.

    Raises:
        RuntimeError: first wanted while a CUDA graph is captured.
    """
    key, capturing = (grid_in, grid_out, device), _capturing(device)
    matrix = _KEPT.pop(key, None)
    if matrix is None:
        matrix = _HELD.get(key)
    if matrix is None:
        if capturing:
            raise RuntimeError(
                f"resize_positions: from {grid_in} to {grid_out} is not at hand, and its matrix comes from the host, "
                "which a CUDA graph cannot hold; call it right before the capture"
            )
        matrix = _made(grid_in, grid_out, device)
    _KEPT[key] = matrix
    if len(_KEPT) > MOST_KEPT:
        del _KEPT[next(iter(_KEPT))]
    if capturing:
        _HELD[key] = matrix
    return matrix


def _capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _made(grid_in: Grid, grid_out: Grid, device: torch.device) -> Tensor:
    # A matrix first made during inference must still serve a later training step, whatever the defaults then are.
    with torch.inference_mode(False), torch.no_grad():
        tokens_in = grid_in[0] * grid_in[1]
        units = torch.eye(tokens_in, dtype=torch.float32, device="cpu").view(tokens_in, 1, *grid_in)
        resized = F.interpolate(units, size=grid_out, mode="bicubic", antialias=True)
        matrix = resized.view(tokens_in, -1).t().contiguous().to(device)
    if device.type == "cuda":  # other streams will read it
        torch.cuda.current_stream(device).synchronize()
    return matrix


# An operator, so that compilers see neither the cache nor which grids there are, and fake tensors never enter it. A
# compiler that captures graphs by itself leaves it out: the matrix must not lie in memory that belongs to a graph.
LIBRARY.define("resize_positions" + SCHEMA, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.cudagraph_unsafe))
_operator = torch.ops.silc_kernels.resize_positions.default


def _resized(table: Tensor, grid_in: Sequence[int], grid_out: Sequence[int], transposed: bool) -> Tensor:
    """The matrix, or its transpose, times table [tokens, D], in its dtype; fp32 inside."""
    matrix = resize_matrix(tuple(grid_in), tuple(grid_out), table.device)
    precise = torch.promote_types(table.dtype, matrix.dtype)
    matrix = matrix.t() if transposed else matrix
    with without_autocast(table.device):
        return torch.mm(matrix.to(precise), table.to(precise)).to(table.dtype)


def _shape(table, grid_in, grid_out, transposed):
    return table.new_empty(prod(grid_in if transposed else grid_out), table.shape[1])


def _below(table, *how):
    with torch._C._AutoDispatchBelowAutograd():
        return _operator(table, *how)


class _Resize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, table, *how):
        ctx.how = how
        return (_resized if unwatched((table,)) else _below)(table, *how)

    @staticmethod
    def backward(ctx, grad):
        grid_in, grid_out, transposed = ctx.how
        direct = not torch.is_grad_enabled() and unwatched((grad,))
        return (_resized if direct else _operator)(grad, grid_in, grid_out, not transposed), None, None, None


def _differentiable(table: Tensor, grid_in: Sequence[int], grid_out: Sequence[int], transposed: bool) -> Tensor:
    if torch.is_grad_enabled() and table.requires_grad:
        return _Resize.apply(table, grid_in, grid_out, transposed)
    return (_resized if unwatched((table,)) else _below)(table, grid_in, grid_out, transposed)


LIBRARY.impl("resize_positions", _resized, "CompositeExplicitAutograd")
LIBRARY.impl("resize_positions", _differentiable, "Autograd")
torch.library.register_fake("silc_kernels::resize_positions", _shape, lib=LIBRARY)


def resize_positions(table: Tensor, grid_in: Grid, grid_out: Grid) -> Tensor:
    """Resize a position table, differentiably: [1, rows_in * cols_in, D] -> [rows_out * cols_out, D], in fp32 inside.

    The same values as timm's ``resample_abs_pos_embed`` (bicubic, antialias). A CUDA graph can hold the call if the
    same grids were resized on that device before its capture.

    Raises:
        ValueError: a table of another shape, or a grid without rows or columns.
    """
    _check(table, grid_in, grid_out)
    if grid_in == grid_out:
        return table.squeeze(0)
    run = _differentiable if unwatched((table,)) else _operator
    return run(table.squeeze(0), grid_in, grid_out, False)


def _check(table: Tensor, grid_in: Grid, *grids: Grid) -> None:
    refuse_transforms("resize_positions", (table,))
    check_grid("resize_positions", "grid_in", grid_in)
    for grid in grids:
        check_grid("resize_positions", "grid_out", grid)
    check_shape("resize_positions", "table", table, (1, grid_in[0] * grid_in[1], None), "[1, rows_in * cols_in, D]")


def resize_to_each(table: Tensor, grid_in: Grid, grids: Sequence[Grid]) -> list[Tensor]:
    """`resize_positions` to each of `grids`; one step of autograd where the dispatcher is not needed."""
    if not (torch.is_grad_enabled() and table.requires_grad and unwatched((table,))):
        return [resize_positions(table, grid_in, grid) for grid in grids]
    _check(table, grid_in, *grids)
    return list(_ResizeToEach.apply(table, grid_in, grids))


class _ResizeToEach(torch.autograd.Function):
    @staticmethod
    def forward(ctx, table, grid_in, grids):
        ctx.grid_in, ctx.grids = grid_in, grids
        ctx.set_materialize_grads(False)
        table = table.squeeze(0)
        return tuple(table if grid == grid_in else _resized(table, grid_in, grid, False) for grid in grids)

    @staticmethod
    def backward(ctx, *grads):
        total = None
        for grid, grad in zip(ctx.grids, grads, strict=True):
            if grad is None:
                continue
            if grid != ctx.grid_in:
                direct = not torch.is_grad_enabled() and unwatched((grad,))
                grad = (_resized if direct else _operator)(grad, ctx.grid_in, grid, True)
            total = grad if total is None else total + grad
        return None if total is None else total.unsqueeze(0), None, None
