"""Few-shot classification on frozen features: a ridge classifier in closed form, and nearest neighbours.

The ridge classifier is big_vision's protocol: features standardised by the shots' mean and deviation, a constant
feature of 100 as a bias that the penalty hardly touches, targets -1 and 1,  W = (X'X + l I)^-1 X'Y,  argmax of x W.
Neighbours vote with weight exp(cosine / 0.07), as DINO's do (arXiv 2104.14294).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from silc.data.splits import LABELS, DataSet, Split
from silc.evaluate.sharding import Job, Metric
from silc.evaluate.tasks.task import TRAIN, TaskKind
from silc.evaluate.towers import Towers

BIAS = 100.0
STD_FLOOR = 1e-5
TEMPERATURE = 0.07
ROWS = 4096  # test pictures compared at a time


def run(model: Towers, data: DataSet, job: Job) -> Iterator[Metric]:
    """Mean and deviation, over draws, of top-1 with each number of shots."""
    evaluation, count = job.config.eval, len(data.classes)
    labels = read_labels(data.train, job)
    draws = [choose(labels, max(evaluation.shots), draw) for draw in range(evaluation.draws)]
    wanted = sorted({number for draw in draws for row in draw.values() for number in row})
    train_numbers, train = job.over_pictures(data.train, wanted, model.size, model.images)
    test_labels = {number: data.test.label(number) for number in job.chosen(data.test)}
    asked = [number for number, label in test_labels.items() if label is not None]
    kept, test = job.over_pictures(data.test, asked, model.size, model.images)
    truth = torch.tensor([test_labels[number] for number in kept])
    place = {number: i for i, number in enumerate(train_numbers)}
    job.notes.append(
        f"{evaluation.draws} draws from {data.train.title}, {len(kept)} test pictures of {data.test.title}, at "
        f"{model.size} px; ridge penalty {evaluation.ridge:g}, {evaluation.neighbours} neighbours"
    )
    short = count - sum(len(row) >= max(evaluation.shots) for row in draws[0].values())
    if short:
        job.notes.append(f"{short} classes have fewer than {max(evaluation.shots)} training pictures: all are taken")
    device = model.device
    for shots in evaluation.shots:
        scores: dict[str, list[float]] = {"ridge": [], "knn": []}
        for draw in draws:
            job.check()
            rows = [number for row in draw.values() for number in row[:shots] if number in place]
            x = train[[place[number] for number in rows]].to(device)
            y = torch.tensor([labels[number] for number in rows], device=device)
            for name, guess in (
                ("ridge", ridge(x, y, count, test.to(device), evaluation.ridge)),
                ("knn", neighbours(x, y, count, test.to(device), evaluation.neighbours)),
            ):
                scores[name].append((guess.cpu() == truth).double().mean().item())
        for name, values in scores.items():
            yield Metric(f"{name}_{shots}shot", float(np.mean(values)), 1 / count)
            yield Metric(f"{name}_{shots}shot_std", float(np.std(values)))


def read_labels(split: Split, job: Job) -> dict[int, int]:
    """Number -> class of a split's pictures that have one; pictures are not decoded (collective)."""
    chunks = [range(first, min(first + 4096, len(split))) for first in range(0, len(split), 4096)]
    parts = job.each(chunks, lambda numbers: [(number, split.label(number)) for number in numbers])
    return {number: label for part in parts for number, label in part if label is not None}


def choose(labels: dict[int, int], shots: int, draw: int) -> dict[int, list[int]]:
    """Class -> the first `shots` of its pictures in a random order: fewer shots are the head of more.

    A function of the draw's number alone.
    """
    rng = np.random.default_rng([7, draw])
    members: dict[int, list[int]] = {}
    for number, label in labels.items():
        members.setdefault(label, []).append(number)
    return {
        label: [members[label][i] for i in rng.permutation(len(members[label]))[:shots]] for label in sorted(members)
    }


def ridge(x: Tensor, y: Tensor, classes: int, test: Tensor, penalty: float) -> Tensor:
    """Classes int64 [m] of test [m, D], from x [n, D] of classes y [n]. In fp64."""
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
    """Classes int64 [m] of unit-length test [m, D], by the votes of the nearest `count` of unit-length x [n, D]."""
    guesses = []
    for rows in test.split(ROWS):
        nearest = (rows @ x.T).topk(min(count, len(x)), dim=1)
        votes = torch.zeros(len(rows), classes, dtype=x.dtype, device=x.device)
        votes.scatter_add_(1, y[nearest.indices], (nearest.values / TEMPERATURE).exp())
        guesses.append(votes.argmax(1))
    return torch.cat(guesses)


TASK = TaskKind("fewshot", "classification", frozenset({LABELS, TRAIN}), run)
