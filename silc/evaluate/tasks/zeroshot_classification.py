"""Zero-shot classification: pictures against the embeddings of their classes' names (CLIP, arXiv 2103.00020, section
3.1).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from silc.data.splits import LABELS, DataSet
from silc.evaluate.sharding import Job, Metric
from silc.evaluate.tasks.task import TaskKind, class_embeddings
from silc.evaluate.towers import Towers

TOP = 5


def run(model: Towers, data: DataSet, job: Job) -> Iterator[Metric]:
    """top-1, top-5 and mean per class."""
    classes = class_embeddings(model, data, job)
    labels = {number: data.test.label(number) for number in job.chosen(data.test)}
    numbers = [number for number, label in labels.items() if label is not None]

    def ranked(images: Tensor) -> Tensor:
        return (model.images(images) @ classes.T).topk(min(TOP, len(classes)), dim=-1).indices

    kept, best = job.over_pictures(data.test, numbers, model.size, ranked)
    truth = torch.tensor([labels[number] for number in kept])
    job.notes.append(f"{len(kept)} pictures of {data.test.title}, whole, at {model.size} px")
    job.details["truth"], job.details["guess"] = truth, best[:, 0]
    yield from accuracy(truth, best, len(classes))


def accuracy(truth: Tensor, best: Tensor, classes: int) -> list[Metric]:
    """Shares of pictures whose class is guessed first, or among the first five; the mean of the classes' shares.

    Args:
        truth: int64 [n].
        best: classes in falling order of similarity, int64 [n, 5] (or fewer columns).
        classes: their number. Those without a picture have no part in the mean per class.
    """
    hit = best == truth[:, None]
    first = hit[:, 0].double()
    counts = torch.bincount(truth, minlength=classes)
    per_class = torch.bincount(truth, first, minlength=classes)[counts > 0] / counts[counts > 0]
    return [
        Metric("top1", first.mean().item(), 1 / classes),
        Metric("top5", hit[:, :TOP].any(1).double().mean().item(), min(1.0, TOP / classes)),
        Metric("mean_per_class", per_class.mean().item(), 1 / classes),
    ]


TASK = TaskKind("zeroshot_classification", "classification", frozenset({LABELS}), run)
