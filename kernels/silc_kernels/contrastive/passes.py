"""The V similarity matrices of the contrastive loss, rows this rank's images, columns the texts of all ranks.

They are seen a tile at a time, the features of other ranks gathered a slice at a time, each slice while the one before
is worked on. Softmax: a first pass finds the log-sum-exp of every row and column, a second one the gradient

    G_ij = exp(s_ij - row_i) + exp(s_ij - column_j),   d image_i = scale / (2 B) (sum_j G_ij text_j - 2 text_i),

and d text alike, each tile of G multiplied at once and dropped. Sigmoid: one pass, G_ij = sigmoid(s_ij). Of a matching
pair, i = j, G_ii - 2 or G_ii - 1 is one small number, never the difference of two large ones. The gradient of the scale
is sum_ij G_ij image_i . text_j: summed with the tiles, or read off as the inner product of image and G text.

The arithmetic on a tile is an engine's (`Tiles`); the passes and what travels between ranks are the same for all.
"""

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..common.collectives import Behind, Ranks


class Tile(NamedTuple):
    """Where a tile lies: the same `rows` rows of each of `views` views, from `row` on, by columns from `column` on.

    Views lie one below the other, and `row` counts from the first one: a tile of several views holds all of their rows.
    In each view, matching pair m of `pairs` sits at (first_row, first_column) + m of the tile and is this rank's pair
    first_pair + m. start: of the slice, so that no other tile of a pass is equal.
    """

    view: int
    views: int
    row: int
    rows: int
    column: int
    columns: int
    first_row: int
    first_column: int
    pairs: int
    first_pair: int
    start: int

    @property
    def images(self) -> slice:
        """Its rows among those of all views."""
        return slice(self.row, self.row + self.views * self.rows)

    @property
    def texts(self) -> slice:
        return slice(self.column, self.column + self.columns)


class Operand:
    """Features [rows, width] as an engine multiplies them, contiguous; width may be padded by zeros."""

    def __init__(self, features: Tensor) -> None:
        self.features = features

    def at(self, rows: slice) -> Tensor:
        return part(self.features, rows)


class Statistics(NamedTuple):
    """Of the softmax: log-sum-exps of this rank's rows [V, n] and of all columns [V, ranks n], positives s_ii [V, n].

    The positives come from the tiles: a product of their own would round otherwise than the sums it is held against,
    and where a pair takes nearly all of its row, what is left of it is such roundings.
    """

    rows: Tensor
    columns: Tensor
    positives: Tensor
    rank: int

    @property
    def own_columns(self) -> Tensor:
        """Log-sum-exps of the columns of this rank's texts, [V, n]."""
        n = self.rows.shape[1]
        return part(self.columns, slice(self.rank * n, (self.rank + 1) * n), 1)

    def of_slice(self, start: int, end: int) -> Tensor:
        """Log-sum-exps of columns start..end of every rank, [V, ranks (end - start)]."""
        views, n = self.rows.shape
        return self.columns if end - start == n else self.columns.view(views, -1, n)[:, :, start:end].flatten(1)


class Tiles(Protocol):
    """The arithmetic on tiles, made anew for each loss. Log-sum-exps of rows are [V, n], of a slice's columns [V, C].

    Attributes:
        images: this rank's, all views, as an operand.
        texts: this rank's.
        elements: similarities in a tile of G at most.
        summed: similarities that `add_log_sum_exps` takes at most.
        sums_products: whether the gradient of the scale needs no d_image.
    """

    images: Operand
    texts: Operand
    elements: int
    summed: int
    sums_products: bool

    def __init__(self, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor | None, seen_twice: int) -> None:
        """image [V n, d], text [n, d], scalars of any shape. seen_twice: this rank's similarities, if a second pass
        returns.
        """

    def operand(self, features: Tensor) -> Operand:
        """Gathered features [rows, d]."""

    def add_log_sum_exps(self, tile: Tile, texts: Operand, rows: Tensor, columns: Tensor, positives: Tensor) -> None:
        """Add the tile to log-sum-exps, as log(exp + exp) and in place; put its positives s_ii in their rows [V, n].

        The first tile of a row or a column finds nothing there yet (`begins`).
        """

    def merge(self, parts: Tensor, columns: Tensor, start: int) -> None:
        """Columns [V, ranks n] from `start` on in each rank, from every rank's sums of a slice, [ranks V, C]."""

    def softmax_gradient(
        self, tile: Tile, images: Operand, texts: Operand, rows: Tensor, columns: Tensor, statistics: Statistics
    ) -> Tensor:
        """G [views rows, columns] from the log-sum-exps of whole rows and columns. It may lack the matching pairs.

        Valid until the next one. rows, columns: of the tiles' matrix, where `statistics` are of this rank's pairs.
        """

    def sigmoid_gradient(self, tile: Tile, images: Operand, texts: Operand) -> Tensor:
        """The same."""

    def accumulate(self, total: Tensor, left: Tensor, right: Tensor, fresh: bool) -> None:
        """total += left @ right, one of them G or its transpose. fresh: total = left @ right."""

    def finish(self, statistics: Statistics | None, d_image: Tensor | None, d_text: Tensor | None) -> Tensor:
        """Add what G lacked of the matching pairs to d_image [.., n, width] and d_text [n, width].

        Returns:
            [4], new: sums over this rank's rows of the loss (twice the softmax's), of G_ij image_i . text_j and of
            G_ij; and the scale.
        """


class Options(NamedTuple):
    """What is asked for. step: features of each rank gathered at a time."""

    softmax: bool
    ranks: Ranks
    recompute: bool
    step: int
    image_wanted: bool
    text_wanted: bool
    scale_wanted: bool


class Solution(NamedTuple):
    """loss [], d_scalars [4], d_image [V, n, d] and d_text [n, d] where wanted, else None.

    d_scalars: the loss, the gradients of scale and bias, and a factor that d_image and d_text are still to be
    multiplied by: the backward, which multiplies them anyway, spares a trip through memory. Loss and d_scalars are over
    all ranks, the features' gradients in the averaging convention.
    """

    loss: Tensor
    d_scalars: Tensor
    d_image: Tensor | None
    d_text: Tensor | None


class Similarities:
    """image [V, n, d] or [n, d], text [n, d]; scale and bias of one element each, no bias: 0."""

    def __init__(
        self, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor | None, options: Options, engine: type[Tiles]
    ) -> None:
        self.options, self.ranks = options, options.ranks
        self.n, self.width = text.shape
        self.image, self.text = image.flatten(0, -2) if image.dim() == 3 else image, text
        self.views = self.image.shape[0] // self.n
        dtype = wide_dtype(image.dtype, text.dtype)
        self.scale = scale if scale.dtype == dtype else scale.to(dtype)
        self.reduced = options.text_wanted and not (options.recompute and self.ranks.size > 1)
        image_needed = options.image_wanted or (options.scale_wanted and not engine.sums_products)
        self.rows_needed = not options.softmax or image_needed or options.scale_wanted or self.reduced
        self.rounds = int(options.softmax) + int(self.rows_needed)
        seen_twice = self.views * self.n * self.n * self.ranks.size if self.rounds == 2 else 0
        bias = bias if bias is None or bias.dtype == dtype else bias.to(dtype)
        self.tiles = engine(self.image, text, self.scale, bias, seen_twice)
        *several, n, _ = image.shape
        width = self.tiles.texts.features.shape[1]
        # Returned as it is, where it needs no padding: in the shape of the image.
        make = functools.partial(torch.empty, dtype=dtype, device=image.device)
        self.d_image = make((*several, n, width)) if image_needed else None
        self.d_text = make((n, width)) if options.text_wanted else None

    def solve(self) -> Solution:
        texts = self.gathered_texts()
        statistics = self.log_sum_exps(texts) if self.options.softmax else None
        if self.rows_needed:
            self.row_pass(texts, statistics)
        if self.d_text is not None and not self.reduced:
            self.column_pass(self.d_text, statistics)
        return self.in_the_mean(self.tiles.finish(statistics, self.d_image, self.d_text))

    def in_the_mean(self, sums: Tensor) -> Solution:
        """From sums over pairs to the mean over ranks, views and pairs."""
        pairs = self.n * self.ranks.size * self.views
        share = 1 / (2 * pairs) if self.options.softmax else 1 / pairs
        # The sum over ranks makes the factor, scale * share on each, `ranks` times as large: engines divide the
        # features' gradients, which are one rank's alone, by that number.
        d_scalars = self.ranks.all_reduce_(sums.mul_(share))
        d_image = self.d_image if self.options.image_wanted else None
        # Autograd refuses to let a view, returned by a function, be changed in place.
        loss = d_scalars[0].clone()
        return Solution(loss, d_scalars, self.without_padding(d_image), self.without_padding(self.d_text))

    def without_padding(self, gradient: Tensor | None) -> Tensor | None:
        if gradient is None or gradient.shape[-1] == self.width:
            return gradient
        return gradient[..., : self.width].contiguous()

    def log_sum_exps(self, texts: Iterator[Operand]) -> Statistics:
        """The first pass of the softmax; the column's sums are merged between ranks behind the next slice."""
        ranks, views = self.ranks, self.views
        make = functools.partial(torch.empty, dtype=self.scale.dtype, device=self.image.device)
        rows, positives, columns = make((views, self.n)), make((views, self.n)), make((views, ranks.size * self.n))
        merging = Behind()
        for (start, end), across in zip(self.slices(), texts, strict=False):
            partial = columns if ranks.size == 1 else make((views, ranks.size * (end - start)))
            for tile in self.row_tiles(start, end, self.tiles.summed):
                self.tiles.add_log_sum_exps(tile, across, rows, partial, positives)
            if ranks.size > 1:
                merging.put(
                    functools.partial(ranks.start_all_gather, partial),
                    functools.partial(self.tiles.merge, columns=columns, start=start),
                )
        merging.finish()
        return Statistics(rows, columns, positives, ranks.rank)

    def row_pass(self, texts: Iterator[Operand], statistics: Statistics | None) -> None:
        """Add G text to d_image and, in the plan that reduces them, G^T image over all ranks to d_text."""
        ranks, images = self.ranks, self.tiles.images
        d_image = self.d_image
        if d_image is not None and d_image.dim() > 2:
            d_image = d_image.flatten(0, -2)
        returning = Behind()
        for (start, end), across in zip(self.slices(), texts, strict=False):
            d_texts = None
            if self.reduced and self.d_text is not None:
                d_own = self.d_text[start:end] if ranks.size > 1 else self.d_text
                d_texts = d_own if ranks.size == 1 else d_own.new_empty(across.features.shape)
            columns = None if statistics is None else statistics.of_slice(start, end)
            for tile in self.row_tiles(start, end, self.tiles.elements):
                if statistics is None or columns is None:
                    gradient = self.tiles.sigmoid_gradient(tile, images, across)
                else:
                    gradient = self.tiles.softmax_gradient(tile, images, across, statistics.rows, columns, statistics)
                if d_image is not None:
                    fresh = start == tile.column == 0
                    self.add_product(d_image, tile.images, gradient, across, tile.texts, fresh)
                if d_texts is not None:
                    self.add_product(d_texts, tile.texts, gradient.t(), images, tile.images, tile.row == 0)
            if d_texts is not None and ranks.size > 1:
                # The sum arrives in d_text itself.
                returning.put(functools.partial(ranks.start_reduce_scatter, d_texts, d_own), lambda arrived: None)
        returning.finish()

    def column_pass(self, d_text: Tensor, statistics: Statistics | None) -> None:
        """G^T image in d_text, from this rank's columns computed anew, images gathered."""
        ranks, texts = self.ranks, self.tiles.texts
        all_rows = None if statistics is None else ranks.start_all_gather(statistics.rows)
        views = self.image.view(self.views, self.n, -1)
        gathered = ranks.gather_ahead([view[start:end] for start, end in self.slices() for view in views])
        columns = None if statistics is None else statistics.own_columns.contiguous()
        for start, end in self.slices():
            for view in range(self.views):
                across = self.tiles.operand(next(gathered))
                own = ranks.rank * (end - start)
                for tile in cut(1, len(across.features), self.n, own, own + end - start, start, self.tiles.elements):
                    # Its only view is, of this rank's, the one that is gathered.
                    tile = tile._replace(view=view, first_pair=tile.column + tile.first_column)
                    if statistics is None or all_rows is None or columns is None:
                        gradient = self.tiles.sigmoid_gradient(tile, across, texts)
                    else:
                        rows = all_rows.wait().view(ranks.size, self.views, -1)[:, view, start:end].reshape(1, -1)
                        gradient = self.tiles.softmax_gradient(tile, across, texts, rows, columns, statistics)
                    self.add_product(
                        d_text, tile.texts, gradient.t(), across, tile.images, start == view == tile.row == 0
                    )

    def add_product(self, total: Tensor, to: slice, left: Tensor, operand: Operand, taken: slice, fresh: bool) -> None:
        """total[to] += left @ operand[taken]."""
        self.tiles.accumulate(part(total, to), left, operand.at(taken), fresh)

    def gathered_texts(self) -> Iterator[Operand]:
        """The slices of all ranks' texts, each `rounds` times."""
        if self.ranks.size == 1:
            return iter((self.tiles.texts,) * self.rounds)
        return map(self.tiles.operand, self.ranks.gather_ahead(self.text.split(self.options.step), self.rounds))

    def slices(self) -> Iterator[tuple[int, int]]:
        """(start, end) of each rank's features that are worked on together; all of them where nothing is gathered."""
        step = self.options.step if self.ranks.size > 1 else self.n
        return ((start, min(start + step, self.n)) for start in range(0, self.n, step))

    def row_tiles(self, start: int, end: int, elements: int) -> tuple[Tile, ...]:
        """Of this rank's images by texts start..end of every rank."""
        taken, size, rank = end - start, self.ranks.size, self.ranks.rank
        return cut(self.views, self.n, size * taken, start, end, rank * taken, elements)


def part(tensor: Tensor, taken: slice, dim: int = 0) -> Tensor:
    """A slice of `tensor`, but where that is the whole: it costs the host as much as a fill."""
    length = taken.stop - taken.start
    return tensor if length == tensor.shape[dim] else tensor.narrow(dim, taken.start, length)


def begins(tile: Tile, n: int) -> tuple[bool, bool]:
    """Whether `tile` is the first of the first pass in its rows, and in its columns; n: rows of a view."""
    return tile.start == tile.column == 0, tile.row == tile.view * n


@functools.cache
def wide_dtype(*dtypes: torch.dtype) -> torch.dtype:
    """What they are summed in: float32 at least."""
    return functools.reduce(torch.promote_types, dtypes, torch.float32)


@functools.lru_cache(maxsize=1024)
def cut(views: int, n: int, across: int, start: int, end: int, at: int, elements: int) -> tuple[Tile, ...]:
    """Tiles of at most `elements` of V matrices [n, across], columns after one another, each from top to bottom.

    start, end, at: row i of a view, start <= i < end, matches column at + i - start.
    """
    # Square where there are rows enough: a product that sums over few rows would mostly move its result.
    wide = min(across, max(math.isqrt(elements), elements // (views * n)))
    tiles = []
    for column in range(0, across, wide):
        columns = min(wide, across - column)
        for view, taken, row, rows in _row_blocks(views, n, max(1, elements // wide)):
            shift = at - start - column
            first, last = max(start, row, -shift), min(end, row + rows, columns - shift)
            pairs = max(0, last - first)
            places = first - row, first + shift, pairs, first, start
            tiles.append(Tile(view, taken, view * n + row, rows, column, columns, *places))
    return tuple(tiles)


def _row_blocks(views: int, n: int, most: int) -> Iterator[tuple[int, int, int, int]]:
    """(view, views, row, rows): whole views, or a part of one, of at most `most` rows together."""
    if n > most:
        for view in range(views):
            for row in range(0, n, most):
                yield view, 1, row, min(most, n - row)
    else:
        for view in range(0, views, most // n):
            yield view, min(most // n, views - view), 0, n
