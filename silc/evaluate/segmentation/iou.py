"""Intersection over union from a confusion matrix, which ranks can add up exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from silc.data.splits import IGNORE, Split, image_and_mask
from silc.evaluate.metric import Metric
from silc.evaluate.sharding import Job
from silc.text import plural

PIXELS = 1 << 22  # counted at a time


def confusion(guess: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Pixels by true class (rows) and guessed class: int64 [C, C] on the CPU.

    guess, truth: int64 of one shape. Pixels whose truth is IGNORE are left out.
    """
    total = torch.zeros(classes**2, dtype=torch.int64)
    for true, guessed in zip(truth.flatten().split(PIXELS), guess.flatten().split(PIXELS), strict=True):
        counted = true != IGNORE
        total += torch.bincount(true[counted] * classes + guessed[counted], minlength=classes**2).cpu()
    return total.view(classes, classes)


def per_class(matrix: Tensor) -> Tensor:
    """IoU of each class, float64 [C]; NaN for a class that occurs neither in the truth nor in a guess."""
    right = matrix.diagonal().double()
    return right / (matrix.sum(0) + matrix.sum(1) - matrix.diagonal())


def metrics(matrix: Tensor, prefix: str = "") -> list[Metric]:
    """Mean IoU over the classes in the truth or a guess, share of pixels that are right, mean of the classes' shares.

    Chance is a guess drawn evenly from all classes for each pixel.
    """
    classes, truth = len(matrix), matrix.sum(1)
    present = truth > 0
    right = matrix.diagonal().double()
    return [
        Metric(f"{prefix}miou", per_class(matrix).nanmean().item(), chance(truth).mean().item()),
        Metric(f"{prefix}pixel_accuracy", (right.sum() / truth.sum()).item(), 1 / classes),
        Metric(f"{prefix}mean_accuracy", (right[present] / truth[present]).mean().item(), 1 / classes),
    ]


def chance(truth: Tensor) -> Tensor:
    """IoU of each class for even guesses among all classes: [C] from the classes' pixels [C].

    A share 1 / C of a class's pixels is guessed right; the same share of all other pixels is guessed to be of it.
    """
    classes, pixels = len(truth), truth.double()
    hit = pixels / classes
    return hit / (pixels + (pixels.sum() - pixels) / classes).clamp(min=1)


def measure(
    job: Job, split: Split, indices: Sequence[int], classes: int, predict: Callable[[Tensor], Sequence[Tensor]]
) -> Tensor:
    """Confusion matrices over images, int64 [k, C, C], by all ranks (collective).

    predict: an image, uint8 [H, W, 3] -> k guesses, int64 [H, W].

    Raises ValueError: a mask that does not fit its image or the classes; no pixel with a class.
    """

    def one(index: int) -> Tensor:
        image, truth = image_and_mask(split, index)
        return torch.stack([confusion(guess.cpu(), truth, classes) for guess in predict(image)])

    total = job.summed(split, indices, one, torch.zeros(1, classes, classes, dtype=torch.int64))
    if not total.sum():
        why = job.why_unusable(split, indices)
        raise ValueError(f"{split.title}: no pixel of {plural(len(indices), 'mask')} has a class; {why}")
    return total
