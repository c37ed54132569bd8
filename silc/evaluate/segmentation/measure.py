"""Segmentation measured over the images of a split, by all ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from silc.data.splits import Split, image_and_mask
from silc.evaluate.bootstrap import Resamples, resamples
from silc.evaluate.metric import Metric
from silc.evaluate.segmentation import iou, present, windows
from silc.evaluate.sharding import Job
from silc.text import plural

Scores = Callable[[Tensor], Sequence[Tensor]]
"""An image, uint8 [H, W, 3] -> k score maps, fp32 [C, h, w]; a pixel's class is the one with the highest score."""


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
    job: Job, split: Split, indices: Sequence[int], classes: int, scores: Scores, *, among_present: bool = False
) -> Measured:
    """Counts of each image that can be read (collective).

    among_present: whether to measure among the classes present too; otherwise `present` is empty.

    Raises ValueError: a mask that does not fit its image or the classes; no pixel with a class.
    """

    def one(index: int) -> tuple[list[iou.Row], list[Tensor]]:
        image, truth = image_and_mask(split, index)
        maps = scores(image)
        size = tuple(truth.shape)
        rows = [iou.count(windows.best_class(each, size).cpu(), truth, classes) for each in maps]
        return rows, [present.of_image(maps[0], truth)] if among_present else []

    found = job.each_image(split, indices, one)
    read = [(index, each) for index, each in zip(indices, found, strict=True) if each is not None]
    rows = tuple(zip(*(rows for _, (rows, _) in read), strict=True))
    if not rows or not iou.total(rows[0], classes).any():
        why = job.why_unusable(split, indices)
        raise ValueError(f"{split.title}: no pixel of {plural(len(indices), 'mask')} has a class; {why}")
    among = tuple(each for _, (_, present) in read for each in present)
    return Measured(classes, rows, among, resamples(split, [index for index, _ in read]))
