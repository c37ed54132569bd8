"""The V similarity matrices of the contrastive loss, rows this rank's images, columns the texts of all ranks.

They are seen a tile at a time, the features of other ranks gathered a slice at a time. Softmax: a first pass finds the
log-sum-exp of every row and column, a second one the gradient

    G_ij = exp(s_ij - row_i) + exp(s_ij - column_j),   d image_i = scale / (2 B) (sum_j G_ij text_j - 2 text_i),

and d text alike, each tile of G multiplied at once and dropped. Sigmoid: one pass, G_ij = sigmoid(s_ij) off the
diagonal. The positives are added outside the tiles. The gradient of the scale, sum_ij G_ij image_i . text_j, is the
inner product of image and G text: no pass of its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from ..collectives import Ranks
from .tiles import Tile, log_sum_exps, sigmoid_tile, softmax_gradient, softmax_tile

# Similarities held at a time: 8 MiB of float32, within the last-level cache.
TILE_ELEMENTS = 1 << 21
# Where all similarities are at most this many, the second pass of the softmax finds them kept: 16 MiB of float32.
KEPT_ELEMENTS = 1 << 22


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
    bias_wanted: bool

    @property
    def rows_wanted(self) -> bool:
        """G text: the image's gradient, and the scale's is read off it."""
        return self.image_wanted or self.scale_wanted

    @property
    def any_wanted(self) -> bool:
        return self.rows_wanted or self.text_wanted


@dataclass
class Similarities:
    """image [V, n, d] and text [n, d] in the computing dtype, their sent_ forms as they travel between ranks."""

    options: Options
    image: Tensor
    text: Tensor
    sent_image: Tensor
    sent_text: Tensor
    scale: Tensor
    bias: Tensor
    gathered_texts: dict[int, Tensor] = field(default_factory=dict)
    tiles: dict[tuple[int, int, int], Tile] = field(default_factory=dict)

    @classmethod
    def of(cls, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, options: Options) -> "Similarities":
        dtype = torch.promote_types(torch.promote_types(image.dtype, text.dtype), torch.float32)
        scale, bias = scale.to(dtype).view(()), bias.to(dtype).view(())
        return cls(options, image.to(dtype), text.to(dtype), image, text, scale, bias)

    def solve(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """[loss, d scale, d bias] over all ranks, d image [V, n, d] and d text [n, d] in the averaging convention."""
        options, ranks = self.options, self.options.ranks
        views, n, _ = self.image.shape
        sums = self.image.new_zeros(3)
        d_image = torch.zeros_like(self.image) if options.rows_wanted else None
        d_text = torch.zeros_like(self.text) if options.text_wanted else None
        positives = torch.einsum("vnd,nd->vn", self.image, self.text) * self.scale
        statistics = None
        if options.softmax:
            statistics = self.log_sum_exps()
            rows, columns = statistics
            sums[0] = 0.5 * (rows.sum() + columns[:, ranks.rank].sum()) - positives.sum()
            pull = positives.new_full((1, 1, 1), 2.0).expand(views, 1, 1)
        else:
            positives += self.bias
            sums[0] = functional.softplus(-positives, threshold=40).sum()
            pull = torch.sigmoid(-positives).unsqueeze(-1)
            sums[2] = -pull.sum()
        if not options.softmax or options.any_wanted:
            self.row_pass(statistics, sums, d_image, None if options.recompute and ranks.size > 1 else d_text)
        if d_text is not None:
            if options.recompute and ranks.size > 1:
                self.column_pass(statistics, d_text)
            for view in range(views):
                d_text.addcmul_(self.image[view], pull[view], value=-1)
        if d_image is not None:
            d_image.addcmul_(self.text, pull, value=-1)
            sums[1] = torch.dot(self.image.flatten(), d_image.flatten())
        pairs = n * ranks.size * views
        share = 1 / (2 * pairs) if options.softmax else 1 / pairs
        sums *= sums.new_tensor([1 / pairs, share, share])
        # Engines divide the sum over ranks by their number; the features' gradients are this rank's alone.
        factor = self.scale * (share * ranks.size)
        for gradient in (d_image, d_text):
            if gradient is not None:
                gradient *= factor
        return ranks.all_reduce_(sums), d_image, d_text

    def log_sum_exps(self) -> tuple[Tensor, Tensor]:
        """Of this rank's rows, [V, n], and of all columns over the rows of all ranks, [V, ranks, n]."""
        views, n, _ = self.image.shape
        ranks = self.options.ranks
        rows = self.image.new_full((views, n), -torch.inf)
        columns = self.image.new_empty((views, ranks.size, n))
        for start, end in self.slices():
            texts = self.texts(start, end)
            partial = self.image.new_full((views, texts.shape[0]), -torch.inf)
            for view in range(views):
                for block in self.blocks(texts.shape[0]):
                    tile = softmax_tile(self.product(self.image[view, block], texts))
                    if views * n * n * ranks.size <= KEPT_ELEMENTS and self.options.any_wanted:
                        self.tiles[view, start, block.start] = tile
                    of_rows, of_columns = log_sum_exps(tile)
                    rows[view, block] = torch.logaddexp(rows[view, block], of_rows)
                    partial[view] = torch.logaddexp(partial[view], of_columns)
            merged = partial if ranks.size == 1 else ranks.all_gather(partial).logsumexp(0)
            columns[:, :, start:end] = merged.view(views, ranks.size, -1)
        return rows, columns

    def row_pass(
        self, statistics: tuple[Tensor, Tensor] | None, sums: Tensor, d_image: Tensor | None, d_text: Tensor | None
    ) -> None:
        """Add G text to d_image and G^T image, over all ranks, to d_text; the sigmoid also adds to sums."""
        ranks = self.options.ranks
        for start, end in self.slices():
            texts = self.texts(start, end)
            alone = d_text is not None and ranks.size == 1
            d_texts = d_text[start:end] if alone else None if d_text is None else torch.zeros_like(texts)
            for view in range(self.image.shape[0]):
                for block in self.blocks(texts.shape[0]):
                    images = self.image[view, block]
                    if statistics is not None:
                        tile = self.tiles.pop((view, start, block.start), None)
                        if tile is None:
                            tile = softmax_tile(self.product(images, texts))
                        rows, columns = statistics
                        gradient = softmax_gradient(tile, rows[view, block], columns[view, :, start:end].reshape(-1))
                    else:
                        own = start - ranks.rank * (end - start)
                        matching = (max(start, block.start), min(end, block.stop))
                        loss, gradient = self.sigmoid(images, texts, block.start, own, matching)
                        sums[0] += loss
                        if self.options.bias_wanted:
                            sums[2] += gradient.sum()
                    if d_image is not None:
                        d_image[view, block].addmm_(gradient, texts)
                    if d_texts is not None:
                        d_texts.addmm_(gradient.t(), images)
            if d_texts is not None and not alone:
                d_text[start:end] = ranks.reduce_scatter(d_texts.view(ranks.size, end - start, -1))

    def column_pass(self, statistics: tuple[Tensor, Tensor] | None, d_text: Tensor) -> None:
        """Add G^T image to d_text from this rank's columns computed anew, images gathered."""
        ranks = self.options.ranks
        all_rows = None if statistics is None else ranks.all_gather(statistics[0])
        for start, end in self.slices():
            for view in range(self.image.shape[0]):
                images = self.gather(self.sent_image[view, start:end])
                for block in self.blocks(images.shape[0]):
                    texts = self.text[block]
                    if statistics is not None:
                        tile = softmax_tile(self.product(images, texts))
                        rows = all_rows[:, view, start:end].reshape(-1)
                        gradient = softmax_gradient(tile, rows, statistics[1][view, ranks.rank, block])
                    else:
                        own = start - ranks.rank * (end - start)
                        matching = (max(start, block.start), min(end, block.stop))
                        _, gradient = self.sigmoid(images, texts, own, block.start, matching)
                    d_text[block].addmm_(gradient.t(), images)

    def product(self, images: Tensor, texts: Tensor) -> Tensor:
        return (images * self.scale) @ texts.t()

    def sigmoid(
        self, images: Tensor, texts: Tensor, first_row: int, first_column: int, matching: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """`sigmoid_tile` of a tile; pair i in range(*matching) sits at (i - first_row, i - first_column)."""
        tile = self.product(images, texts).add_(self.bias)
        start, end = matching
        end = max(start, end)
        positives = tile[start - first_row : end - first_row, start - first_column : end - first_column].diagonal()
        return sigmoid_tile(tile, positives)

    def slices(self) -> Iterator[tuple[int, int]]:
        """(start, end) of each rank's features that are worked on together."""
        n, step = self.text.shape[0], self.options.step
        return ((start, min(start + step, n)) for start in range(0, n, step))

    def blocks(self, across: int) -> Iterator[slice]:
        """Blocks of this rank's features, as many as a tile of `across` on the other side takes."""
        n = self.text.shape[0]
        step = max(1, TILE_ELEMENTS // across)
        return (slice(start, min(start + step, n)) for start in range(0, n, step))

    def texts(self, start: int, end: int) -> Tensor:
        """Texts start..end of every rank, [ranks (end - start), d]."""
        if self.options.ranks.size == 1:
            return self.text[start:end]
        if start not in self.gathered_texts:
            self.gathered_texts.clear()
            self.gathered_texts[start] = self.gather(self.sent_text[start:end])
        return self.gathered_texts[start]

    def gather(self, features: Tensor) -> Tensor:
        """[m, d] of each rank -> [ranks m, d] in the computing dtype."""
        return self.options.ranks.all_gather(features).flatten(0, 1).to(self.text.dtype)
