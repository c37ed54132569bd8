"""Zero-shot classification: images against the embeddings of the class names (CLIP, arXiv 2103.00020, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from silc.data.splits import LABELS, DataSet
from silc.evaluate.bootstrap import Resamples
from silc.evaluate.metric import Metric
from silc.evaluate.sharding import Job
from silc.evaluate.tasks.task import Task, class_embeddings, image_features
from silc.evaluate.towers import Towers
from silc.text import plural

TOP = 5


def run(model: Towers, data: DataSet, job: Job) -> Iterator[Metric]:
    """Top-1, top-5 and mean per-class accuracy."""
    classes = class_embeddings(model, data, job)
    found = {index: data.test.label(index) for index in job.chosen(data.test)}
    labels = {index: label for index, label in found.items() if label is not None}

    kept, features = image_features(model, data.test, list(labels), job)
    parts = features.split(job.config.eval.batch)
    best = torch.cat(
        [(part.to(model.device) @ classes.T).topk(min(TOP, len(classes)), dim=-1).indices.cpu() for part in parts]
    )
    truth = torch.tensor([labels[index] for index in kept])
    job.notes.append(f"{plural(len(kept), 'image')} of {data.test.title}, whole, at {model.size} px")
    job.notes += shown(truth, len(classes))
    job.details["truth"], job.details["guess"] = truth, best[:, 0]
    yield from accuracy(truth, best, len(classes), job.resamples(data.test, kept))


def shown(truth: Tensor, classes: int) -> list[str]:
    """For the protocol, where the test images do not show every class: int64 [n] -> a sentence, or none."""
    count = len(truth.unique())
    if count == classes:
        return []
    return [
        f"the images show {count} of the {classes} classes; all {classes} compete, and chance is a guess among them"
    ]


def accuracy(truth: Tensor, best: Tensor, classes: int, draws: Resamples | None = None) -> list[Metric]:
    """Top-1, top-5 and mean per-class accuracy: how often the class is the first guess, or among the first five.

    Args:
        truth: int64 [n].
        best: classes in descending order of similarity, int64 [n, 5] (or fewer columns).
        classes: their number. Those without an image do not enter the mean of the classes' top-1.
        draws: of the images, for the errors; None: each image by itself. An image's weight in the mean per-class
            accuracy stays what it is in the test set.
    """
    hit = best == truth[:, None]
    first = hit[:, 0].double()
    counts = torch.bincount(truth, minlength=classes)
    per_class = torch.bincount(truth, first, minlength=classes)[counts > 0] / counts[counts > 0]
    five = hit[:, :TOP].any(1).double()
    columns = torch.stack([first, five, first], 1)
    even = torch.ones_like(first)
    weights = torch.stack([even, even, 1 / counts[truth].double()], 1)
    errors = (draws or Resamples(range(len(truth)))).of_means(columns, weights)
    return [
        Metric("top1", first.mean().item(), 1 / classes, errors[0]),
        Metric("top5", five.mean().item(), min(1.0, TOP / classes), errors[1]),
        Metric("mean_per_class", per_class.mean().item(), 1 / classes, errors[2]),
    ]


TASK = Task("zeroshot_classification", "classification", frozenset({LABELS}), run)
