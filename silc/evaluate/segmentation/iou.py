"""Intersection over union from counts of pixels, image by image, which add up exactly and can be resampled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from silc.data.splits import IGNORE
from silc.evaluate.bootstrap import Resamples
from silc.evaluate.metric import Metric

PIXELS = 1 << 22  # counted at a time
IMAGES = 256  # whose counts of all classes are in memory at a time

Row = tuple[Tensor, Tensor]
"""Of an image: the m classes that occur, int64 [m], and their pixels guessed right, true, guessed: int64 [3, m]."""


def count(guess: Tensor, truth: Tensor, classes: int) -> Row:
    """Pixels of each class on the CPU. guess, truth: int64 of one shape; where truth is IGNORE none is counted."""
    total = torch.zeros(3, classes, dtype=torch.int64)
    for true, guessed in zip(truth.flatten().split(PIXELS), guess.flatten().split(PIXELS), strict=True):
        counted = true != IGNORE
        true, guessed = true[counted], guessed[counted]
        for row, pixels in zip(total, (true[true == guessed], true, guessed), strict=True):
            row += torch.bincount(pixels, minlength=classes).cpu()
    met = (total > 0).any(0).nonzero()[:, 0]
    return met, total[:, met]


def total(rows: Sequence[Row], classes: int) -> Tensor:
    """Over images: int64 [3, C], guessed right, true, guessed."""
    out = torch.zeros(3, classes, dtype=torch.int64)
    for met, counts in rows:
        out[:, met] += counts
    return out


def resampled(rows: Sequence[Row], classes: int, resamples: Resamples) -> Tensor:
    """:func:`total` of each resample of the images: float64 [RESAMPLES, 3, C]."""
    return resamples.sums(_dense(rows, classes)).view(-1, 3, classes)


def _dense(rows: Sequence[Row], classes: int) -> Iterator[Tensor]:
    yield torch.zeros(0, 3 * classes, dtype=torch.float64)
    for first in range(0, len(rows), IMAGES):
        some = rows[first : first + IMAGES]
        block = torch.zeros(len(some), 3, classes, dtype=torch.float64)
        for one, (met, counts) in zip(block, some, strict=True):
            one[:, met] = counts.double()
        yield block.flatten(1)


def per_class(counts: Tensor) -> Tensor:
    """IoU of each class, [..., 3, C] -> float64 [..., C]; NaN for a class neither in the truth nor in a guess."""
    right, truth, guess = counts.double().unbind(-2)
    return right / (truth + guess - right)


def figures(counts: Tensor) -> Tensor:
    """Mean IoU over the classes in the truth or a guess, share of pixels that are right, mean of the classes' shares:
    [..., 3, C] -> float64 [..., 3].
    """
    right, truth, _ = counts.double().unbind(-2)
    accuracy = right.sum(-1) / truth.sum(-1)
    return torch.stack([per_class(counts).nanmean(-1), accuracy, (right / truth).nanmean(-1)], -1)


def metrics(rows: Sequence[Row], classes: int, resamples: Resamples) -> list[Metric]:
    """The three of :func:`figures`. Chance is a guess drawn evenly from all classes for each pixel."""
    counts = total(rows, classes)
    errors = resamples.errors(figures(resampled(rows, classes, resamples)))
    guesses = (chance(counts[1]).mean().item(), 1 / classes, 1 / classes)
    names = ("miou", "pixel_accuracy", "mean_accuracy")
    return [Metric(*each) for each in zip(names, figures(counts).tolist(), guesses, errors, strict=True)]


def chance(truth: Tensor) -> Tensor:
    """IoU of each class for even guesses among all classes: [C] from the classes' pixels [C].

    A share 1 / C of a class's pixels is guessed right; the same share of all other pixels is guessed to be of it.
    """
    classes, pixels = len(truth), truth.double()
    hit = pixels / classes
    return hit / (pixels + (pixels.sum() - pixels) / classes).clamp(min=1)
