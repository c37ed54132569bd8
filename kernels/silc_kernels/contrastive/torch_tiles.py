"""The arithmetic on one tile of the similarity matrix in plain torch, sized for the cache of a CPU."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from .passes import Operand, Statistics, Tile, begins

# Similarities held at a time: 8 MiB of float32, within the last-level cache.
TILE_ELEMENTS = 1 << 21
# Where all similarities are at most this many, the second pass of the softmax finds them kept: 16 MiB of float32.
KEPT_ELEMENTS = 1 << 22
# exp(s - max) of a tile whose entries span less than this is a normal float32 everywhere (exp(-80) = 2e-35), so one
# exponential serves rows and columns. At scale 100 a tile can span 200: rows and columns then take one each.
NARROW = 80.0
# Inner products of at most so many numbers are summed without the threads of the vendor's, which cost more than it.
SMALL = 1 << 16


class Exponentials(NamedTuple):
    """values [R, C]: exp(s - peak) where the tile is narrow; s itself, and no peak, where it is wide."""

    values: Tensor
    peak: Tensor | None


class TorchTiles:
    """`contrastive.passes.Tiles` in plain torch; features are multiplied in float32 at least."""

    sums_products = False

    def __init__(self, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor | None, seen_twice: int) -> None:
        self.elements = self.summed = TILE_ELEMENTS
        # Of one dimension at most, so that they broadcast over any matrix.
        self._scale = scale if scale.dim() < 2 else scale.view(())
        self._bias = bias if bias is None or bias.dim() < 2 else bias.view(())
        self.images, self.texts = self.operand(image), self.operand(text)
        self._keeps = 0 < seen_twice <= KEPT_ELEMENTS
        self._kept: dict[Tile, Exponentials] = {}
        self._losses: list[Tensor] = []
        self._values: list[Tensor] = []
        self._below: tuple[Tensor, Tensor] | None = None

    def operand(self, features: Tensor) -> Operand:
        dtype = self._scale.dtype
        return Operand((features if features.dtype == dtype else features.to(dtype)).contiguous())

    def add_log_sum_exps(self, tile: Tile, texts: Operand, rows: Tensor, columns: Tensor, positives: Tensor) -> None:
        similarities = self._similarities(tile, self.images, texts)
        _matching(tile, positives).copy_(_diagonals(tile, similarities))
        exponentials = _exponentials(similarities)
        if self._keeps:
            self._kept[tile] = exponentials
        totals = rows.view(-1)[tile.images].view(tile.views, tile.rows), columns[_views(tile), tile.texts]
        found = _log_sum_exps(tile, exponentials)
        for total, added, fresh in zip(totals, found, begins(tile, rows.shape[1]), strict=True):
            if fresh:
                total.copy_(added)
            else:
                torch.logaddexp(total, added, out=total)

    def merge(self, parts: Tensor, columns: Tensor, start: int) -> None:
        views = columns.shape[0]
        ranks = parts.shape[0] // views
        totals = parts.view(ranks, views, -1).logsumexp(0).view(views, ranks, -1)
        columns.view(views, ranks, -1)[:, :, start : start + totals.shape[2]] = totals

    def softmax_gradient(
        self, tile: Tile, images: Operand, texts: Operand, rows: Tensor, columns: Tensor, statistics: Statistics
    ) -> Tensor:
        kept = self._kept.pop(tile, None)
        if kept is None:
            kept = _exponentials(self._similarities(tile, images, texts))
        peak = kept.peak
        values = kept.values.view(tile.views, tile.rows, tile.columns)
        of_rows = rows.view(-1)[tile.images].view(tile.views, tile.rows, 1)
        of_columns = columns[_views(tile), None, tile.texts]
        if peak is None:
            gradient = (values - of_rows).exp_().add_((values - of_columns).exp_())
        else:
            factors = torch.add((peak - of_rows).exp_(), (peak - of_columns).exp_())
            gradient = factors.mul_(values)
        if tile.pairs:
            from_rows, from_columns = (_matching(tile, each) for each in self._below_totals(statistics))
            _diagonals(tile, gradient).copy_(from_rows.expm1() + from_columns.expm1())
        return gradient.view(-1, tile.columns)

    def sigmoid_gradient(self, tile: Tile, images: Operand, texts: Operand) -> Tensor:
        similarities = self._similarities(tile, images, texts, self._bias)
        matching = _diagonals(tile, similarities)
        matching.neg_()
        counted = images is self.images
        if counted:
            # Above the threshold softplus is the identity: exact to float64 at 40.
            self._losses.append(functional.softplus(similarities, threshold=40).sum())
        gradient = similarities.sigmoid_()
        matching.neg_()
        if counted:
            self._values.append(gradient.sum())
        return gradient

    def accumulate(self, total: Tensor, left: Tensor, right: Tensor, fresh: bool) -> None:
        if fresh:
            torch.mm(left, right, out=total)
        else:
            total.addmm_(left, right)

    def finish(self, statistics: Statistics | None, d_image: Tensor | None, d_text: Tensor | None) -> Tensor:
        scale = self._scale.view(())
        if d_image is None:
            d_scale = torch.zeros_like(scale)
        else:
            d_scale = _inner_product(self.images.features, d_image)
        if statistics is None:
            return torch.stack((_total(self._losses), d_scale, _total(self._values), scale))
        from_rows, from_columns = self._below_totals(statistics)
        loss = (from_rows + from_columns).sum().neg_()
        return torch.stack((loss, d_scale, torch.zeros_like(loss), scale))

    def _below_totals(self, statistics: Statistics) -> tuple[Tensor, Tensor]:
        """How far the positives lie below the log-sum-exps of their rows and columns, [V, n] each."""
        if self._below is None:
            positives = statistics.positives
            self._below = positives - statistics.rows, positives - statistics.own_columns
        return self._below

    def _similarities(self, tile: Tile, images: Operand, texts: Operand, bias: Tensor | None = None) -> Tensor:
        left, right = images.at(tile.images) * self._scale, texts.at(tile.texts).t()
        return torch.mm(left, right) if bias is None else torch.addmm(bias, left, right)


def _views(tile: Tile) -> slice:
    return slice(tile.view, tile.view + tile.views)


def _matching(tile: Tile, values: Tensor) -> Tensor:
    """Of `values` [V, n] those of the tile's matching pairs, [views, pairs]."""
    return values[_views(tile), tile.first_pair : tile.first_pair + tile.pairs]


def _diagonals(tile: Tile, values: Tensor) -> Tensor:
    """The entries of the matching pairs, [views, pairs], a view of `values`, a tile."""
    across = tile.columns
    first = tile.first_row * across + tile.first_column if tile.pairs else 0
    return values.as_strided((tile.views, tile.pairs), (tile.rows * across, across + 1), first)


def _exponentials(similarities: Tensor) -> Exponentials:
    """Takes over `similarities` [R, C]."""
    low, high = similarities.aminmax()
    if high - low < NARROW:
        return Exponentials(similarities.sub_(high).exp_(), high)
    return Exponentials(similarities, None)


def _log_sum_exps(tile: Tile, exponentials: Exponentials) -> tuple[Tensor, Tensor]:
    """Of rows [views, R] and columns [views, C]."""
    peak = exponentials.peak
    values = exponentials.values.view(tile.views, tile.rows, tile.columns)
    if peak is None:
        return values.logsumexp(2), values.logsumexp(1)
    return values.sum(2).log_().add_(peak), values.sum(1).log_().add_(peak)


def _inner_product(left: Tensor, right: Tensor) -> Tensor:
    """Of `left` [rows, width] and `right` of as many numbers, both contiguous."""
    if left.numel() > SMALL:
        return torch.dot(left.view(-1), right.view(-1))
    return (left * (right if right.dim() == 2 else right.view(left.shape))).sum()


def _total(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum()
