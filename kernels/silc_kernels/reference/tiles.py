"""The arithmetic on one tile of the similarity matrix, shared by the plans of the contrastive loss."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

# exp(s - max) of a tile whose entries span less than this is a normal float32 everywhere (exp(-80) = 2e-35), so one
# exponential serves rows and columns. At scale 100 a tile can span 200: rows and columns then take one each.
NARROW = 80.0


class Tile(NamedTuple):
    """values [R, C]: exp(s - peak) where the tile is narrow; s itself, and no peak, where it is wide."""

    values: Tensor
    peak: Tensor | None


def softmax_tile(similarities: Tensor) -> Tile:
    """Takes over `similarities` [R, C]."""
    low, high = similarities.aminmax()
    if high - low < NARROW:
        return Tile(similarities.sub_(high).exp_(), high)
    return Tile(similarities, None)


def log_sum_exps(tile: Tile) -> tuple[Tensor, Tensor]:
    """Of rows [R] and columns [C]."""
    values, peak = tile
    if peak is None:
        return values.logsumexp(1), values.logsumexp(0)
    return values.sum(1).log_().add_(peak), values.sum(0).log_().add_(peak)


def softmax_gradient(tile: Tile, rows: Tensor, columns: Tensor) -> Tensor:
    """exp(s_ij - rows_i) + exp(s_ij - columns_j), [R, C], given the log-sum-exps over the whole matrix."""
    values, peak = tile
    if peak is None:
        by_row = (values - rows[:, None]).exp_()
        return by_row.add_((values - columns).exp_())
    factors = torch.add((peak - rows).exp_()[:, None], (peak - columns).exp_())
    return factors.mul_(values)


def sigmoid_tile(similarities: Tensor, positives: Tensor) -> tuple[Tensor, Tensor]:
    """sum softplus(s) and sigmoid(s), [R, C], of the negatives.

    `positives` is the view of the entries of matching pairs, which are left out: they are added where no large number
    cancels them. Takes over `similarities`.
    """
    positives.fill_(-torch.inf)
    # Above the threshold softplus is the identity: exact to float64 at 40.
    return functional.softplus(similarities, threshold=40).sum(), similarities.sigmoid_()
