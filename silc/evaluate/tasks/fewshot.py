"""Few-shot classification on frozen features: a ridge classifier in closed form, and nearest neighbours.

The ridge classifier follows big_vision's protocol: features standardised by the mean and deviation of the training
images, a constant feature of 100 as a bias that the penalty hardly affects, targets -1 and 1,
W = (X'X + l I)^-1 X'Y,  argmax of x W.  Neighbours vote with weight exp(cosine / 0.07), as in DINO (arXiv 2104.14294).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from silc.data.splits import LABELS, DataSet, Split
from silc.evaluate.metric import Metric
from silc.evaluate.sharding import Job
from silc.evaluate.tasks.task import TRAIN, Task, image_features
from silc.evaluate.tasks.zeroshot_classification import shown
from silc.evaluate.towers import Towers
from silc.text import plural

BIAS = 100.0
STD_FLOOR = 1e-5
TEMPERATURE = 0.07
ROWS = 4096  # test images compared at a time


def run(model: Towers, data: DataSet, job: Job) -> Iterator[Metric]:
    """Top-1 with each number of shots: mean and standard deviation over the draws."""
    evaluation, count, split = job.config.eval, len(data.classes), data.training
    labels = job.kept.small(("labels", id(split)), lambda: read_labels(split, job))
    draws = [choose(labels, max(evaluation.shots), draw) for draw in range(evaluation.draws)]
    wanted = sorted({index for draw in draws for row in draw.values() for index in row})
    train_kept, train = image_features(model, split, wanted, job)
    found = {index: data.test.label(index) for index in job.chosen(data.test)}
    test_labels = {index: label for index, label in found.items() if label is not None}
    test_kept, test = image_features(model, data.test, list(test_labels), job)
    truth = torch.tensor([test_labels[index] for index in test_kept])
    place = {index: i for i, index in enumerate(train_kept)}
    job.notes.append(
        f"{plural(evaluation.draws, 'draw')} from {split.title}, {plural(len(test_kept), 'test image')} of "
        f"{data.test.title}, at {model.size} px; ridge penalty {evaluation.ridge:g}, "
        f"{plural(evaluation.neighbours, 'neighbour')}"
    )
    job.notes += shown(truth, count)
    if untaught := count - len(draws[0]):
        job.notes.append(f"{plural(untaught, 'class has', 'classes have')} no training image")
    short = len(draws[0]) - sum(len(row) >= max(evaluation.shots) for row in draws[0].values())
    if short:
        most = plural(max(evaluation.shots), "training image")
        job.notes.append(f"{plural(short, 'class has', 'classes have')} fewer than {most}: all are used")
    device, sampled = model.device, job.resamples(data.test, test_kept)
    for shots in evaluation.shots:
        hits: dict[str, list[Tensor]] = {"ridge": [], "knn": []}  # of each draw, which test images are right
        for draw in draws:
            job.check()
            rows = [index for row in draw.values() for index in row[:shots] if index in place]
            x = train[[place[index] for index in rows]].to(device)
            y = torch.tensor([labels[index] for index in rows], device=device)
            for name, guess in (
                ("ridge", ridge(x, y, count, test.to(device), evaluation.ridge)),
                ("knn", neighbours(x, y, count, test.to(device), evaluation.neighbours)),
            ):
                hits[name].append((guess.cpu() == truth).double())
        for name, right in hits.items():
            values = [one.mean().item() for one in right]
            (error,) = sampled.of_means(torch.stack(right, 1).mean(1, keepdim=True))
            yield Metric(f"{name}_{shots}shot", float(np.mean(values)), 1 / count, error)
            yield Metric(f"{name}_{shots}shot_std", float(np.std(values)))


def read_labels(split: Split, job: Job) -> dict[int, int]:
    """Index -> class of the images of a split that have one; images are not decoded (collective)."""
    chunks = [range(first, min(first + 4096, len(split))) for first in range(0, len(split), 4096)]
    parts = job.each(chunks, lambda chunk: [(index, split.label(index)) for index in chunk])
    return {index: label for part in parts for index, label in part if label is not None}


def choose(labels: dict[int, int], shots: int, draw: int) -> dict[int, list[int]]:
    """Class -> the first `shots` of its images in a random order; fewer shots are the first ones of more.

    The order depends on `draw`, the draw's number, alone.
    """
    rng = np.random.default_rng([7, draw])
    members: dict[int, list[int]] = {}
    for index, label in labels.items():
        members.setdefault(label, []).append(index)
    return {
        label: [members[label][i] for i in rng.permutation(len(members[label]))[:shots]] for label in sorted(members)
    }


def ridge(x: Tensor, y: Tensor, classes: int, test: Tensor, penalty: float) -> Tensor:
    """Guessed classes, int64 [m], of test [m, D], fitted to x [n, D] of classes y [n]. Computed in fp64."""
    x, test = x.double(), test.double()
    mean, std = x.mean(0), x.std(0, correction=0) + STD_FLOOR

    def extended(features: Tensor) -> Tensor:
        return F.pad((features - mean) / std, (0, 1), value=BIAS)

    a, targets = extended(x), 2.0 * F.one_hot(y, classes).double() - 1
    if len(a) < a.shape[1]:  # the smaller of two systems with the same solution
        weight = a.T @ torch.linalg.solve(
            a @ a.T + penalty * torch.eye(len(a), dtype=a.dtype, device=a.device), targets
        )
    else:
        gram = a.T @ a + penalty * torch.eye(a.shape[1], dtype=a.dtype, device=a.device)
        weight = torch.linalg.solve(gram, a.T @ targets)
    return (extended(test) @ weight).argmax(1)


def neighbours(x: Tensor, y: Tensor, classes: int, test: Tensor, count: int) -> Tensor:
    """Guessed classes, int64 [m], of unit-length test [m, D]: votes of the nearest `count` of unit-length x [n, D]."""
    guesses = []
    for rows in test.split(ROWS):
        nearest = (rows @ x.T).topk(min(count, len(x)), dim=1)
        votes = torch.zeros(len(rows), classes, dtype=x.dtype, device=x.device)
        votes.scatter_add_(1, y[nearest.indices], (nearest.values / TEMPERATURE).exp())
        guesses.append(votes.argmax(1))
    return torch.cat(guesses)


TASK = Task("fewshot", "classification", frozenset({LABELS, TRAIN}), run)
