"""contrastive_loss in Triton: the arithmetic on a tile for passes.py, by triton_kernels.py.

Kernels find the log-sum-exps, G and what matching pairs pull. The products with G are the vendor's: at width 768 an
accumulator of 128 rows in float32 does not fit on a chip, so a kernel of our own would read its features many times
over.
"""

import functools
from typing import Any

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from ..common.direct import cdiv
from ..common.launcher import Launcher
from ..common.triton_runtime import capability, product_dtype
from . import triton_launch as table
from .passes import Operand, Statistics, Tile, begins

# Similarities in a tile of G: 32 MiB in bfloat16, which with its features stays within the 50 MiB of an H100's L2.
ELEMENTS = 1 << 24
# Similarities of a launch that sums exponentials: 8 MiB of sums of rows, and as much of columns.
SUMMED = 1 << 28
# G <= 2 in float16: most probabilities of a batch of 32k would be subnormal, so it is stored this much larger.
UNIT_OF_FLOAT16 = 2.0**14
# Features a line and similarities a line of G are padded to multiples of so many: kernels load and store 16 bytes then.
PADDED = 16


class Features(Operand):
    """Contiguous, 16-byte aligned, padded to a width that kernels take."""

    def __init__(self, features: Tensor) -> None:
        rows, width = features.shape
        # A single row counts as contiguous at any stride, also one that no descriptor takes.
        if width % PADDED or features.stride() != (width, 1) or features.data_ptr() % 16:
            padded = features.new_zeros(rows, cdiv(width, PADDED) * PADDED)
            padded[:, :width] = features
            features = padded
        super().__init__(features)
        self._descriptors: dict[tuple[int, int], TensorDescriptor] = {}

    def taken(self, config: table.LaunchConfig, height: int) -> Tensor | TensorDescriptor:
        """As a kernel takes it, `height` rows at a time."""
        if not config.bulk:
            return self.features
        block = height, config.depth
        if block not in self._descriptors:
            rows, width = self.features.shape
            # A descriptor checks all it holds, in microseconds: what does not change with the tensor is checked once.
            descriptor = object.__new__(TensorDescriptor)
            descriptor.__dict__.update(_checked(self.features.dtype, rows, width, *block))
            descriptor.base = self.features
            self._descriptors[block] = descriptor
        return self._descriptors[block]


class TritonTiles:
    """`contrastive.passes.Tiles` by the kernels: features multiplied in their own dtype, summed in float32."""

    elements = ELEMENTS
    summed = SUMMED
    sums_products = True

    def __init__(self, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor | None, seen_twice: int) -> None:
        self._scale, self._bias = scale, bias
        self._dtype = text.dtype if text.dtype == image.dtype else torch.promote_types(image.dtype, text.dtype)
        self._compute = product_dtype(self._dtype)
        self._unit = UNIT_OF_FLOAT16 if self._compute == torch.float16 else 1.0
        self._architecture = capability(text.device)
        self.images: Operand = self.operand(image)
        self.texts: Operand = self.operand(text)
        self._pairs_programs = cdiv(text.shape[0], table.PAIRS)
        self._gradient: Tensor | None = None
        # [4, programs]: what each program of the gradient's launches has summed so far, then those of the pairs; and
        # narrower ones, that launches of more programs have grown out of.
        self._sums: Tensor | None = None
        self._outgrown: list[Tensor] = []

    def operand(self, features: Tensor) -> Features:
        return Features(features if features.dtype == self._dtype else features.to(self._dtype))

    def add_log_sum_exps(self, tile: Tile, texts: Operand, rows: Tensor, columns: Tensor, positives: Tensor) -> None:
        config, launch = self._launcher("log_sum_exp")
        row_tiles, column_tiles = cdiv(tile.rows, config.rows), cdiv(tile.columns, config.columns)
        row_parts = _parts(rows, column_tiles, tile.views, row_tiles * config.rows)
        column_parts = _parts(rows, row_tiles, tile.views, column_tiles * config.columns)
        place = tile.row, tile.rows, tile.column, tile.columns
        launch(
            (row_tiles * column_tiles, tile.views),
            *self._features(config, self.images, texts),
            *(self._scale, row_parts, column_parts, positives),
            *(*place, self.texts.features.shape[1], tile.first_row, tile.first_column, tile.pairs),
        )
        programs = cdiv(tile.rows, table.MERGED) + cdiv(tile.columns, table.MERGED)
        table.merge_launcher(config.rows, config.columns)(
            (programs, tile.views),
            *(row_parts, column_parts, rows, columns, *place, columns.shape[1], tile.view),
            *map(int, begins(tile, rows.shape[1])),
        )

    def merge(self, parts: Tensor, columns: Tensor, start: int) -> None:
        views, length = columns.shape[0], parts.shape[1]
        ranks = parts.shape[0] // views
        n = columns.shape[1] // ranks
        table.merge_ranks_launcher()(
            (cdiv(length, table.MERGED), views), parts, columns, ranks, length // ranks, n, start
        )

    def softmax_gradient(
        self, tile: Tile, images: Operand, texts: Operand, rows: Tensor, columns: Tensor, statistics: Statistics
    ) -> Tensor:
        totals = rows, columns
        return self._found("softmax_gradient", tile, images, texts, totals, (columns.shape[1], tile.view))

    def sigmoid_gradient(self, tile: Tile, images: Operand, texts: Operand) -> Tensor:
        return self._found("sigmoid_gradient", tile, images, texts, (self._shift(),), ())

    def accumulate(self, total: Tensor, left: Tensor, right: Tensor, fresh: bool) -> None:
        beta = 0 if fresh else 1
        if left.dtype == total.dtype:
            total.addmm_(left, right.to(left.dtype), beta=beta)
        else:
            torch.addmm(total, left, right, torch.float32, beta=beta, alpha=1 / self._unit, out=total)

    def finish(self, statistics: Statistics | None, d_image: Tensor | None, d_text: Tensor | None) -> Tensor:
        n, width = self.texts.features.shape
        programs = self._pairs_programs
        sums = self._scale.new_zeros(4, programs) if self._sums is None else self._sums
        if statistics is None:
            rows = columns = positives = None
            across, column, bias = 0, 0, self._shift()
        else:
            rows, columns, positives, rank = statistics
            # The softmax reads no bias.
            across, column, bias = columns.shape[1], rank * n, self._scale
        images = self.images.features
        pulls = None if d_text is None else torch.empty(images.shape[0], dtype=torch.float32, device=images.device)
        table.pairs_launcher(statistics is not None, d_image is not None, d_text is not None)(
            (programs,),
            *(images, self.texts.features, self._scale, bias, rows, columns, positives, pulls, d_image),
            *(sums, n, images.shape[0] // n, width, across, column, sums.shape[1], sums.shape[1] - programs),
        )
        if d_text is not None:
            table.text_pairs_launcher()(
                (programs, cdiv(width, table.PAIRS_DEPTH)), images, pulls, d_text, n, images.shape[0] // n, width
            )
        found = sums.sum(1)
        for outgrown in self._outgrown:
            found += outgrown.sum(1)
        return found

    def _found(
        self,
        kernel: str,
        tile: Tile,
        images: Operand,
        texts: Operand,
        totals: tuple[Tensor, ...],
        where: tuple[int, ...],
    ) -> Tensor:
        """G by `kernel`."""
        config, launch = self._launcher(kernel)
        grid = cdiv(tile.rows, config.rows), cdiv(tile.columns, config.columns), tile.views
        gradient, sums = self._room(tile, grid[0] * grid[1] * grid[2])
        launch(
            grid,
            *self._features(config, images, texts),
            *(self._scale, *totals, gradient, sums, tile.row, tile.rows, tile.column, tile.columns),
            *(self.texts.features.shape[1], tile.first_row, tile.first_column, tile.pairs, *where),
            *(gradient.shape[1], sums.shape[1], int(images is self.images), self._unit),
        )
        return gradient if gradient.shape[1] == tile.columns else gradient[:, : tile.columns]

    def _shift(self) -> Tensor:
        if self._bias is None:
            self._bias = torch.zeros_like(self._scale)
        return self._bias

    def _room(self, tile: Tile, programs: int) -> tuple[Tensor, Tensor]:
        """For G, its lines padded, and for the sums of `programs` programs.

        The first tile is the largest but for a last, narrower slice of several ranks, whose tiles are taller and may
        need more programs.
        """
        shape = tile.views * tile.rows, cdiv(tile.columns, PADDED) * PADDED
        if self._gradient is None or self._gradient.shape != shape:
            self._gradient = torch.empty(shape, dtype=self._compute, device=self._scale.device)
        length = programs + self._pairs_programs
        if self._sums is None or self._sums.shape[1] < length:
            if self._sums is not None:
                self._outgrown.append(self._sums)
            self._sums = self._scale.new_zeros(4, length)
        return self._gradient, self._sums

    def _launcher(self, kernel: str) -> tuple[table.LaunchConfig, Launcher]:
        config = table.launch_config(kernel, self._compute.itemsize, self._architecture)
        return config, table.launcher_of(kernel, config, self._compute)

    @staticmethod
    def _features(config: table.LaunchConfig, images: Any, texts: Any) -> tuple[Any, Any]:
        return images.taken(config, config.rows), texts.taken(config, config.columns)


@functools.lru_cache(maxsize=1024)
def _checked(dtype: torch.dtype, rows: int, width: int, height: int, depth: int) -> dict[str, Any]:
    """What a descriptor holds, of features that `Features` has made fit for it."""
    return vars(TensorDescriptor(torch.empty(0, dtype=dtype), [rows, width], [width, 1], [height, depth]))


def _parts(like: Tensor, tiles: int, views: int, length: int) -> Tensor:
    return torch.empty((tiles, views, length), dtype=torch.float32, device=like.device)
