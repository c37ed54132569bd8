"""Standard errors of metrics from the choice of test images: the bootstrap (Efron, Annals of Statistics 7(1), 1979).

Images are drawn with replacement, as many as there are; a metric's error is its standard deviation over RESAMPLES such
draws. Images that show the same drawing are no independent evidence: they are drawn together, as one group.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from silc.data.splits import Split

RESAMPLES = 200
IMAGES = 4096  # whose weights are in memory at a time
SEED = 17


class Resamples:
    """RESAMPLES draws of n groups out of n; a function of n alone.

    Args:
        groups: of each image, in the order of the images; those of equal groups are drawn together.
    """

    def __init__(self, groups: Sequence[Hashable]) -> None:
        number = {group: i for i, group in enumerate(dict.fromkeys(groups))}
        count = self._count = len(number)
        self._group = torch.tensor([number[group] for group in groups], dtype=torch.int64)
        rng = np.random.default_rng(SEED)
        self._drawn = torch.zeros(RESAMPLES, count, dtype=torch.int16)  # small, as there may be many groups
        for row in self._drawn if count else ():
            row.copy_(torch.from_numpy(np.bincount(rng.integers(count, size=count), minlength=count)))

    @property
    def groups(self) -> Tensor:
        """Number of each image's group: int64 [images]."""
        return self._group

    def weights(self, first: int, last: int) -> Tensor:
        """How often each of the images from `first` to before `last` is drawn: float64 [RESAMPLES, last - first]."""
        return self._drawn[:, self._group[first:last]].double()

    def sums(self, blocks: Iterable[Tensor]) -> Tensor:
        """Sums over the images of each resample: float64 [RESAMPLES, m].

        blocks: the images' values, [b, m] for b images after the other; [n, m] in all.
        """
        total, first = torch.zeros(RESAMPLES, 1, dtype=torch.float64), 0
        for block in blocks:
            total = total + self.weights(first, first + len(block)) @ block.double()
            first += len(block)
        return total

    def errors(self, resampled: Tensor) -> list[float | None]:
        """Standard deviation of each of m metrics over the resamples: [RESAMPLES, m].

        Resamples in which a metric has no value are left out. None: one group alone, or hardly any value.
        """
        return [self._error(column[column.isfinite()]) for column in resampled.unbind(1)]

    def _error(self, values: Tensor) -> float | None:
        return values.std().item() if self._count > 1 and len(values) > 1 else None

    def of_means(self, values: Tensor, weights: Tensor | None = None) -> list[float | None]:
        """Errors of means over images.

        values: [n, m]. weights: of the images in each mean, [n, m] or [n, 1]; None: equal ones.
        """
        over = torch.ones(len(values), 1, dtype=torch.float64) if weights is None else weights.double()
        parts = (values.double() * over).split(IMAGES), over.split(IMAGES)
        return self.errors(self.sums(parts[0]) / self.sums(parts[1]))


def groups_of(split: Split, indices: Sequence[int]) -> list[Hashable]:
    """Of images of a split: the drawing they show where the split knows that it is one, else each is its own."""
    group = getattr(split, "group", None)
    known = [None if group is None else group(index) for index in indices]
    return [index if found is None else (found,) for index, found in zip(indices, known, strict=True)]
