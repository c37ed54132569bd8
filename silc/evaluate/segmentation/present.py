"""Where a class is, apart from which classes there are: measures among the classes that an image's mask has.

Mean IoU over a vocabulary mostly asks for the right class. Here the classes of an image are given, and images with
fewer than two are left out, so that only the place counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from silc.data.splits import IGNORE
from silc.evaluate.bootstrap import Resamples
from silc.evaluate.metric import Metric
from silc.evaluate.segmentation import iou, windows
from silc.text import plural

NAMES = ("present_accuracy", "present_miou", "object_recall", "localization_auc")


def of_image(scores: Tensor, truth: Tensor) -> Tensor:
    """What an image adds to the measures: float64 [3, 5] on the CPU, zeros where it has fewer than two classes.

    scores: fp32 [C, h, w], upsampled to the mask's size as for segmentation. truth: int64 [H, W].

    Returns a column for each of NAMES and one for the largest class everywhere, with which accuracy is to be compared;
    rows: sum, number of what is summed (pixels, images, or classes of images), and the sum that chance gives.
    """
    present = truth[truth != IGNORE].unique()
    k = len(present)
    if k < 2:
        return torch.zeros(3, len(NAMES) + 1, dtype=torch.float64)
    truth, maps = truth.to(scores.device), scores[present.to(scores.device)]
    local = torch.searchsorted(present.to(truth.device), truth)
    local[truth == IGNORE] = IGNORE
    counts = iou.total([iou.count(windows.best_class(maps, tuple(truth.shape)), local, k)], k)
    right, pixels, _ = counts.double()
    labelled = pixels.sum()
    areas = sum(auc(one, local == number) for number, one in enumerate(_at_size(maps, tuple(truth.shape))))
    sums = (right.sum(), iou.per_class(counts).mean(), (right / pixels).sum(), areas, pixels.max())
    numbers = (labelled, 1, k, k, labelled)
    guesses = (labelled / k, iou.chance(pixels).mean(), 1, k / 2, labelled / k)
    return torch.tensor([[float(value) for value in row] for row in (sums, numbers, guesses)], dtype=torch.float64)


def _at_size(maps: Tensor, size: tuple[int, ...]) -> Iterator[Tensor]:
    """One at a time: [k, h, w] -> k times [*size]."""
    for one in maps.split(1):
        yield (one if tuple(one.shape[1:]) == size else windows.upsample(one, size))[0]


def auc(scores: Tensor, own: Tensor) -> float:
    """Area under the ROC curve: the share of pairs, one of the pixels `own` and one of the others, in which the first
    one scores higher; equal scores count half (Mann and Whitney). Counted in whole numbers, hence exact.

    scores: fp32, own: bool of the same shape, true and false at least once.
    """
    positive, negative = scores[own], scores[~own]
    # NumPy's sort of numbers alone is several times as fast as torch's, which orders indices too.
    ordered = negative.sort().values if negative.is_cuda else torch.from_numpy(np.sort(negative.numpy()))
    below, upto = (torch.searchsorted(ordered, positive, right=right) for right in (False, True))
    return (below + upto).sum().item() / (2 * len(positive) * len(negative))


def metrics(images: Sequence[Tensor], resamples: Resamples) -> tuple[list[Metric], str]:
    """The measures NAMES over images, by :func:`of_image`, and a note; no measures without an image of two classes.

    present_accuracy: share of the labelled pixels that is right when each is assigned to the best of the classes
        present. present_miou: IoU under that assignment, mean over the classes of an image, then over images.
    object_recall: share of a class's pixels that is assigned to it, mean over the classes of all images.
    localization_auc: area under the ROC curve of a class's score, its pixels against all others of the image, those
        without a class too; mean over the classes of all images.
    """
    parts = torch.stack(list(images))
    used = int((parts[:, 1, 1] > 0).sum())
    if not used:
        return [], f"left out, as no image has two classes: {', '.join(NAMES)}"
    sums, numbers, guesses = parts.sum(0)
    sampled = resamples.sums([parts.flatten(1)]).view(-1, *parts.shape[1:])
    errors = resamples.errors(sampled[:, 0] / sampled[:, 1])
    values, chances = (sums / numbers).tolist(), (guesses / numbers).tolist()
    note = (
        f"among the classes present: {plural(used, 'image')} with two or more; the largest of them everywhere has a "
        f"present_accuracy of {values[-1]:.3f}"
    )
    return [Metric(*each) for each in zip(NAMES, values, chances, errors, strict=False)], note
