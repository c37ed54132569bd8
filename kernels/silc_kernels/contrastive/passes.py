"""The V similarity matrices of the contrastive loss, rows this rank's images, columns the texts of all ranks.

They are seen a tile at a time, the features of other ranks gathered a slice at a time, each slice while the one before
is worked on. Softmax: a first pass finds the log-sum-exp of every row and column, a second one the gradient

    G_ij = exp(s_ij - row_i) + exp(s_ij - column_j),   d image_i = scale / (2 B) (sum_j G_ij text_j - 2 text_i),

and d text alike, each tile of G multiplied at once and dropped. Sigmoid: one pass, G_ij = sigmoid(s_ij). G is zero for
the matching pairs, i = j: what they pull, 2 - G_ii or 1 - G_ii, is added outside the tiles, where neither a large
number nor a coarse dtype of G cancels it. The gradient of the scale is sum_ij G_ij image_i . text_j: summed with the
tiles, or read off as the inner product of image and G text, without a pass of its own.

The arithmetic on a tile is an engine's (`Tiles`); the passes and what travels between ranks are the same for all.
"""

import functools
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ..common.collectives import Behind, Ranks


class Tile(NamedTuple):
    """images [R, d] and texts [C, d] of one view; matching pair m of `pairs` sits at (first_row, first_column) + m.

    key: the same for a tile that is seen again, where it is.
    """

    images: Tensor
    texts: Tensor
    first_row: int
    first_column: int
    pairs: int
    key: Hashable = None


class Tiles(Protocol):
    """The arithmetic on tiles, made anew for each loss.

    Attributes:
        elements: similarities in a tile at most.
        sums_products: whether `sums` holds sum_ij G_ij image_i . text_j.
    """

    elements: int
    sums_products: bool

    def __init__(self, scale: Tensor, bias: Tensor, seen_twice: int) -> None:
        """scale, bias: scalars. seen_twice: similarities of this rank that a second pass comes back to."""

    @staticmethod
    def operand(dtype: torch.dtype) -> torch.dtype:
        """In which dtype features of `dtype` are multiplied."""

    def add_log_sum_exps(self, tile: Tile, rows: Tensor, columns: Tensor, positives: Tensor) -> None:
        """Add, as log(exp + exp) and in place, the tile to the log-sum-exps of its rows [R] and columns [C].

        The similarities of its matching pairs are written to their rows in `positives` [R].
        """

    def softmax_gradient(self, tile: Tile, rows: Tensor, columns: Tensor) -> Tensor:
        """G [R, C] from the log-sum-exps of the whole rows [R] and columns [C]."""

    def sigmoid_gradient(self, tile: Tile, counted: bool) -> Tensor:
        """G [R, C]. counted: the tile enters `sums`."""

    def accumulate(self, total: Tensor, left: Tensor, right: Tensor) -> None:
        """total += left @ right, one of them G or its transpose."""

    def sums(self) -> Tensor:
        """[3]: over the tiles so far, of softplus(s_ij) (sigmoid), G_ij image_i . text_j (where supported) and G_ij."""


@dataclass(frozen=True)
class Options:
    """What is asked for. step: features of each rank gathered at a time."""

    softmax: bool
    ranks: Ranks
    recompute: bool
    step: int
    image_wanted: bool
    text_wanted: bool
    scale_wanted: bool


class Statistics(NamedTuple):
    """Of the softmax: log-sum-exps of this rank's rows [V, n] and of all columns [V, ranks, n], positives s_ii [V, n].

    The positives come from the tiles: a product of their own would round otherwise than the sums it is held against,
    and where a pair takes nearly all of its row, what is left of it is such roundings.
    """

    rows: Tensor
    columns: Tensor
    positives: Tensor


class Solution(NamedTuple):
    """loss [], d_scalars [3], d_image [V, n, d] and d_text [n, d] where wanted, else None.

    d_scalars: a factor, and the gradients of scale and bias. d_image and d_text are still to be multiplied by the
    factor: the backward, which multiplies them anyway, spares a trip through memory. Loss and d_scalars are over all
    ranks, the features' gradients in the averaging convention.
    """

    loss: Tensor
    d_scalars: Tensor
    d_image: Tensor | None
    d_text: Tensor | None


class Similarities:
    """image [V, n, d], text [n, d]; scale and bias of one element each."""

    def __init__(
        self, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, options: Options, engine: type[Tiles]
    ) -> None:
        shared = torch.promote_types(image.dtype, text.dtype)
        self.options, self.ranks = options, options.ranks
        self.dtype = torch.promote_types(shared, torch.float32)
        self.image, self.text = (x.to(engine.operand(shared)).contiguous() for x in (image, text))
        # Between ranks features travel as they are.
        self.sent_image, self.sent_text = (self.image, self.text) if self.ranks.size == 1 else (image, text)
        self.scale, self.bias = scale.to(self.dtype).view(()), bias.to(self.dtype).view(())
        self.reduced = options.text_wanted and not (options.recompute and self.ranks.size > 1)
        image_needed = options.image_wanted or (options.scale_wanted and not engine.sums_products)
        self.rows_needed = not options.softmax or image_needed or options.scale_wanted or self.reduced
        self.d_image = torch.zeros_like(self.image, dtype=self.dtype) if image_needed else None
        self.d_text = torch.zeros_like(self.text, dtype=self.dtype) if options.text_wanted else None
        views, n, _ = image.shape
        self.rounds = 2 if options.softmax and self.rows_needed else 1
        self.tiles = engine(self.scale, self.bias, views * n * n * self.ranks.size if self.rounds == 2 else 0)

    def solve(self) -> Solution:
        options, ranks = self.options, self.ranks
        texts = ranks.gather_ahead([self.sent_text[start:end] for start, end in self.slices()], self.rounds)
        products = (self.image.to(self.dtype) * self.text.to(self.dtype)).sum(-1)
        statistics = self.log_sum_exps(texts) if options.softmax else None
        if statistics is not None:
            from_rows = statistics.positives - statistics.rows
            from_columns = statistics.positives - statistics.columns[:, ranks.rank]
            # Twice the loss: the share of a softmax pair is half as large.
            loss = -(from_rows + from_columns).sum()
            pull = -(from_rows.expm1() + from_columns.expm1())
        else:
            positives = products * self.scale + self.bias
            loss = functional.softplus(-positives, threshold=40).sum()
            pull = torch.sigmoid(-positives)
        if self.rows_needed:
            self.row_pass(texts, statistics)
        sums = self.tiles.sums()
        total, d_scale, d_bias = sums.unbind()
        total += loss
        if options.softmax:
            d_bias.zero_()
        else:
            d_bias -= pull.sum()
        if self.d_image is not None:
            self.d_image.addcmul_(self.text, pull.unsqueeze(-1), value=-1)
        if self.tiles.sums_products:
            d_scale -= (pull * products).sum()
        elif options.scale_wanted and self.d_image is not None:
            torch.dot(self.image.view(-1), self.d_image.view(-1), out=d_scale)
        if self.d_text is not None:
            if not self.reduced:
                self.column_pass(self.d_text, statistics)
            for image, pulls in zip(self.image, pull, strict=True):
                self.d_text.addcmul_(image, pulls.unsqueeze(-1), value=-1)
        return self.in_the_mean(sums)

    def in_the_mean(self, sums: Tensor) -> Solution:
        """From sums over pairs to the mean over ranks, views and pairs."""
        views, n, _ = self.image.shape
        pairs = n * self.ranks.size * views
        share = 1 / (2 * pairs) if self.options.softmax else 1 / pairs
        sums = self.ranks.start_all_reduce(sums.mul_(share)).wait()
        # A copy: outputs of an op must not share memory.
        loss = sums[0].clone()
        # Engines divide the sum over ranks by their number; the features' gradients are this rank's alone.
        torch.mul(self.scale, share * self.ranks.size, out=sums[0])
        d_image = self.d_image if self.options.image_wanted else None
        return Solution(loss, sums, d_image, self.d_text)

    def log_sum_exps(self, texts: Iterator[Tensor]) -> Statistics:
        """The first pass of the softmax; the column's sums are merged between ranks behind the next slice."""
        views, n, _ = self.image.shape
        ranks = self.ranks
        rows = self.image.new_full((views, n), -torch.inf, dtype=self.dtype)
        columns, positives = rows.new_empty(views, ranks.size, n), torch.empty_like(rows)
        merging = Behind()
        for (start, end), gathered in zip(self.slices(), texts, strict=False):
            across = gathered.to(self.text.dtype)
            partial = rows.new_full((views, across.shape[0]), -torch.inf)
            for view in range(views):
                for block in self.blocks(across.shape[0]):
                    tile = self.tile(view, block, start, end, across)
                    self.tiles.add_log_sum_exps(tile, rows[view, block], partial[view], positives[view, block])
            target = columns[:, :, start:end]
            if ranks.size == 1:
                target[:, 0] = partial
            else:
                merging.put(
                    functools.partial(ranks.start_all_gather, partial),
                    functools.partial(_merge, target),
                )
        merging.finish()
        return Statistics(rows, columns, positives)

    def row_pass(self, texts: Iterator[Tensor], statistics: Statistics | None) -> None:
        """Add G text to d_image and, in the plan that reduces them, G^T image over all ranks to d_text."""
        ranks = self.ranks
        returning = Behind()
        for (start, end), gathered in zip(self.slices(), texts, strict=False):
            across = gathered.to(self.text.dtype)
            d_texts = None
            if self.reduced and self.d_text is not None:
                d_own = self.d_text[start:end]
                d_texts = d_own if ranks.size == 1 else d_own.new_zeros(across.shape)
            for view in range(self.image.shape[0]):
                for block in self.blocks(across.shape[0]):
                    tile = self.tile(view, block, start, end, across)
                    if statistics is None:
                        gradient = self.tiles.sigmoid_gradient(tile, counted=True)
                    else:
                        columns = statistics.columns[view, :, start:end].reshape(-1)
                        gradient = self.tiles.softmax_gradient(tile, statistics.rows[view, block], columns)
                    if self.d_image is not None:
                        self.tiles.accumulate(self.d_image[view, block], gradient, across)
                    if d_texts is not None:
                        self.tiles.accumulate(d_texts, gradient.t(), tile.images)
            if d_texts is not None and ranks.size > 1:
                parts = d_texts.view(ranks.size, end - start, -1)
                # The sum arrives in d_text itself.
                returning.put(functools.partial(ranks.start_reduce_scatter, parts, d_own), lambda arrived: None)
        returning.finish()

    def column_pass(self, d_text: Tensor, statistics: Statistics | None) -> None:
        """Add G^T image to d_text from this rank's columns computed anew, images gathered."""
        ranks, views = self.ranks, self.image.shape[0]
        all_rows = None if statistics is None else ranks.start_all_gather(statistics.rows)
        parts = [self.sent_image[view, start:end] for start, end in self.slices() for view in range(views)]
        images = ranks.gather_ahead(parts)
        for start, end in self.slices():
            for view in range(views):
                across = next(images).to(self.image.dtype)
                for block in self.blocks(across.shape[0]):
                    first, last = max(start, block.start), min(end, block.stop)
                    row = first - start + ranks.rank * (end - start)
                    tile = Tile(across, self.text[block], row, first - block.start, max(0, last - first))
                    if statistics is None or all_rows is None:
                        gradient = self.tiles.sigmoid_gradient(tile, counted=False)
                    else:
                        rows = all_rows.wait()[:, view, start:end].reshape(-1)
                        columns = statistics.columns[view, ranks.rank, block]
                        gradient = self.tiles.softmax_gradient(tile, rows, columns)
                    self.tiles.accumulate(d_text[block], gradient.t(), across)

    def tile(self, view: int, block: slice, start: int, end: int, across: Tensor) -> Tile:
        """A block of this rank's images by texts start..end of every rank."""
        first, last = max(start, block.start), min(end, block.stop)
        column = first - start + self.ranks.rank * (end - start)
        key = view, start, block.start
        return Tile(self.image[view, block], across, first - block.start, column, max(0, last - first), key)

    def slices(self) -> Iterator[tuple[int, int]]:
        """(start, end) of each rank's features that are worked on together."""
        n, step = self.text.shape[0], self.options.step
        return ((start, min(start + step, n)) for start in range(0, n, step))

    def blocks(self, across: int) -> Iterator[slice]:
        """Blocks of this rank's features, as many as a tile of `across` on the other side takes."""
        n = self.text.shape[0]
        step = max(1, self.tiles.elements // across)
        return (slice(start, min(start + step, n)) for start in range(0, n, step))


def _merge(columns: Tensor, parts: Tensor) -> None:
    """columns [V, ranks, n] from every rank's log-sum-exps [ranks, V, ranks n]."""
    columns.copy_(parts.logsumexp(0).view_as(columns))
