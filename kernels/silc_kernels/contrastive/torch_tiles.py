"""The arithmetic on one tile of the similarity matrix in plain torch, sized for the cache of a CPU."""

from collections.abc import Hashable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from .passes import Tile

# Similarities held at a time: 8 MiB of float32, within the last-level cache.
TILE_ELEMENTS = 1 << 21
# Where all similarities are at most this many, the second pass of the softmax finds them kept: 16 MiB of float32.
KEPT_ELEMENTS = 1 << 22
# exp(s - max) of a tile whose entries span less than this is a normal float32 everywhere (exp(-80) = 2e-35), so one
# exponential serves rows and columns. At scale 100 a tile can span 200: rows and columns then take one each.
NARROW = 80.0


class Exponentials(NamedTuple):
    """values [R, C]: exp(s - peak) where the tile is narrow; s itself, and no peak, where it is wide."""

    values: Tensor
    peak: Tensor | None


class TorchTiles:
    """`contrastive.passes.Tiles` in plain torch; features are multiplied in float32 at least."""

    sums_products = False

    def __init__(self, scale: Tensor, bias: Tensor, seen_twice: int) -> None:
        self.elements = TILE_ELEMENTS
        self._scale, self._bias = scale, bias
        self._keeps = 0 < seen_twice <= KEPT_ELEMENTS
        self._kept: dict[Hashable, Exponentials] = {}
        self._sums = scale.new_zeros(3)

    @staticmethod
    def operand(dtype: torch.dtype) -> torch.dtype:
        return torch.promote_types(dtype, torch.float32)

    def add_log_sum_exps(self, tile: Tile, rows: Tensor, columns: Tensor, positives: Tensor) -> None:
        similarities = self._similarities(tile)
        positives[tile.first_row :][: tile.pairs] = _matching(tile, similarities)
        exponentials = _exponentials(similarities)
        if self._keeps:
            self._kept[tile.key] = exponentials
        for totals, added in zip((rows, columns), _log_sum_exps(exponentials), strict=True):
            torch.logaddexp(totals, added, out=totals)

    def softmax_gradient(self, tile: Tile, rows: Tensor, columns: Tensor) -> Tensor:
        kept = self._kept.pop(tile.key, None)
        values, peak = kept if kept is not None else _exponentials(self._similarities(tile))
        if peak is None:
            gradient = (values - rows[:, None]).exp_().add_((values - columns).exp_())
        else:
            factors = torch.add((peak - rows).exp_()[:, None], (peak - columns).exp_())
            gradient = factors.mul_(values)
        _matching(tile, gradient).zero_()
        return gradient

    def sigmoid_gradient(self, tile: Tile, counted: bool) -> Tensor:
        similarities = self._similarities(tile).add_(self._bias)
        _matching(tile, similarities).fill_(-torch.inf)
        if counted:
            # Above the threshold softplus is the identity: exact to float64 at 40.
            self._sums[0].add_(functional.softplus(similarities, threshold=40).sum())
        gradient = similarities.sigmoid_()
        if counted:
            self._sums[2].add_(gradient.sum())
        return gradient

    def accumulate(self, total: Tensor, left: Tensor, right: Tensor) -> None:
        total.addmm_(left, right)

    def sums(self) -> Tensor:
        return self._sums

    def _similarities(self, tile: Tile) -> Tensor:
        return (tile.images * self._scale) @ tile.texts.t()


def _matching(tile: Tile, values: Tensor) -> Tensor:
    """The entries of the matching pairs, a view of `values` [R, C]."""
    across = values.shape[1]
    return values.as_strided((tile.pairs,), (across + 1,), tile.first_row * across + tile.first_column)


def _exponentials(similarities: Tensor) -> Exponentials:
    """Takes over `similarities` [R, C]."""
    low, high = similarities.aminmax()
    if high - low < NARROW:
        return Exponentials(similarities.sub_(high).exp_(), high)
    return Exponentials(similarities, None)


def _log_sum_exps(exponentials: Exponentials) -> tuple[Tensor, Tensor]:
    """Of rows [R] and columns [C]."""
    values, peak = exponentials
    if peak is None:
        return values.logsumexp(1), values.logsumexp(0)
    return values.sum(1).log_().add_(peak), values.sum(0).log_().add_(peak)
