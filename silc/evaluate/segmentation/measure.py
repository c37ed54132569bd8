"""Segmentation measured over the images of a split, by all ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from silc.data.splits import Split
from silc.evaluate.bootstrap import Resamples
from silc.evaluate.metric import Metric
from silc.evaluate.segmentation import iou, present, windows
from silc.evaluate.sharding import Job, bytes_of
from silc.text import plural

Scores = Callable[[Tensor], Tensor]
"""Windows, uint8 [n, 3, rows, columns] -> [n, k C, any, any]: k score maps of C classes; a pixel has the class that
scores highest."""


class Cut(NamedTuple):
    """An image's windows, uint8 [n, 3, rows, columns], their places in the resized image, its height and width, and
    the mask, int64 [H, W].
    """

    crops: Tensor
    places: list[windows.Box]
    size: tuple[int, int]
    truth: Tensor


@dataclass(frozen=True)
class Measured:
    """What was counted.

    Attributes:
        classes: their number.
        rows: of each of k score maps, the counts of each image.
        present: of each image, of the first score map: see :func:`silc.evaluate.segmentation.present.of_image`.
        resamples: of the images.
    """

    classes: int
    rows: tuple[tuple[iou.Row, ...], ...]
    present: tuple[Tensor, ...]
    resamples: Resamples

    def metrics(self, job: Job) -> list[Metric]:
        """Of the first score map: of IoU, then those among the classes present. What they were measured on is noted."""
        among, note = present.metrics(self.present, self.resamples)
        job.notes.append(note)
        return [*iou.metrics(self.rows[0], self.classes, self.resamples), *among]


def measure(
    job: Job,
    split: Split,
    indices: Sequence[int],
    classes: int,
    patch: int,
    scores: Scores,
    *,
    maps: int = 1,
    among_present: bool = False,
) -> Measured:
    """Counts of each image that can be read (collective).

    Args:
        classes, maps: C and k.
        patch: pixels a side of the model's patches.
        among_present: whether to measure among the classes present too; otherwise `present` is empty.

    Raises ValueError: a mask that does not fit its image or the classes; no pixel with a class.
    """

    def checked(crops: Tensor) -> Tensor:
        job.check()
        return scores(crops)

    def held(cut: Cut) -> int:
        """In bytes; the finest score maps have two cells a patch's side."""
        count, _, height, width = cut.crops.shape
        numbers = count * maps * classes * (2 * height // patch) * (2 * width // patch)
        return 4 * numbers + bytes_of(cut.crops) + bytes_of(cut.truth)

    def some(read: list[tuple[int, Cut]]) -> list[tuple[int, list[iou.Row], list[Tensor]]]:
        crops = [cut.crops.to(job.world.device) for _, cut in read]
        out = []
        for (index, cut), found in zip(read, windows.batched(crops, job.geometry.batch, checked), strict=True):
            scored = windows.merged(found, cut.places, *cut.size).chunk(maps)
            size = tuple(cut.truth.shape)
            rows = [iou.count(windows.best_class(one, size).cpu(), cut.truth, classes) for one in scored]
            out.append((index, rows, [present.of_image(scored[0], cut.truth)] if among_present else []))
        return out

    found = job.several(split, indices, lambda index: _cut(job, split, index, patch), some, held)
    rows = tuple(zip(*(rows for _, rows, _ in found), strict=True))
    if not rows or not iou.total(rows[0], classes).any():
        why = job.why_unusable(split, indices)
        raise ValueError(f"{split.title}: no pixel of {plural(len(indices), 'mask')} has a class; {why}")
    among = tuple(each for _, _, present in found for each in present)
    return Measured(classes, rows, among, job.resamples(split, [index for index, _, _ in found]))


def _cut(job: Job, split: Split, index: int, patch: int) -> Cut:
    image, truth = job.image_and_mask(split, index)
    pixels = windows.resized(image, job.geometry.short_side, patch)
    height, width = pixels.shape[1:]
    places = windows.boxes(height, width, job.geometry.window, job.geometry.stride)
    return Cut(windows.cut(pixels, places), places, (height, width), truth)
