"""A linear classifier of frozen patch features: what they know of the picture without the text.

Patches of the training split, at most PATCHES a picture, drawn among those with a class; each weighs as much as the
share of its pixels that have one. Multinomial logistic regression by AdamW on standardised features. All ranks make the
features and measure; rank 0 fits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from silc.data.splits import IGNORE, MASKS, DataSet
from silc.evaluate import iou, windows
from silc.evaluate.sharding import Job, Metric
from silc.evaluate.tasks.patch_labels import cells, training_windows
from silc.evaluate.tasks.task import TRAIN, TaskKind
from silc.evaluate.towers import Towers

PATCHES = 64
BATCH = 2048
LEARNING_RATE = 0.02
WEIGHT_DECAY = 1e-4
STD_FLOOR = 1e-5

Linear = tuple[Tensor, Tensor]
"""weight [C, D], bias [C]"""


def run(model: Towers, data: DataSet, job: Job) -> Iterator[Metric]:
    """Mean IoU, pixel accuracy, mean accuracy of the classifier on the test split."""
    classes, evaluation = len(data.classes), job.config.eval
    chosen = job.chosen(data.train, evaluation.train_images)
    parts = job.each(chosen, lambda number: patches(model, data, number, job), data.train)
    usable = [part for part in parts if part is not None and len(part[1])]
    if not usable:
        why = job.why_unusable(data.train, chosen)
        raise ValueError(f"{data.train.title}: no pixel of {len(chosen)} masks has a class; {why}")
    x, y, weight = (torch.cat(column) for column in zip(*usable, strict=True))
    fitted = job.on_main(
        lambda: fit(x.float(), y, weight, classes, evaluation.probe_steps, model.device, check=job.check)
    )
    linear = tuple(part.to(model.device) for part in fitted)
    numbers = job.chosen(data.test, job.config.eval.test_images or job.config.eval.limit)
    (matrix,) = iou.measure(job, data.test, numbers, classes, lambda picture: [segment(model, picture, linear, job)])
    job.notes.append(
        f"{len(y)} patches of {len(chosen)} pictures of {data.train.title}, {evaluation.probe_steps} steps; "
        f"{len(numbers)} pictures of {data.test.title}; {job.geometry.words()}"
    )
    job.notes.append(f"background: {data.background}")
    job.details["iou"] = iou.per_class(matrix)
    yield from iou.metrics(matrix)


def patches(model: Towers, data: DataSet, number: int, job: Job) -> tuple[Tensor, Tensor, Tensor]:
    """Features [m, D] in half precision, classes [m], weights [m] of a picture's patches; a function of its number."""
    images, truth = training_windows(data.train, number, model.patch, job)
    label, share = cells(truth, model.patch, len(data.classes))
    features = model.patches(images.to(model.device)).cpu().flatten(0, 2)
    known = (label.flatten() != IGNORE).nonzero()[:, 0]
    generator = torch.Generator().manual_seed(number)
    some = known[torch.randperm(len(known), generator=generator)[:PATCHES]]
    return features[some].half(), label.flatten()[some], share.flatten()[some]


@torch.enable_grad()  # measuring goes on without
def fit(
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    classes: int,
    steps: int,
    device: torch.device,
    check: Callable[[], None] = lambda: None,
) -> Linear:
    """Weighted multinomial logistic regression of x [m, D] on y [m], on the CPU when done; a function of its arguments.

    `check` is called every few steps.
    """
    x, y, weight = x.to(device), y.to(device), weight.to(device)
    mean, std = x.mean(0), x.std(0, correction=0) + STD_FLOOR
    w = torch.zeros(classes, x.shape[1], device=device, requires_grad=True)
    b = torch.zeros(classes, device=device, requires_grad=True)
    optimizer = torch.optim.AdamW([w, b], lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        if step % 16 == 0:
            check()
        rows = torch.randint(len(x), (min(BATCH, len(x)),), generator=generator).to(device)
        logits = (x[rows] - mean) / std @ w.T + b
        loss = (F.cross_entropy(logits, y[rows], reduction="none") * weight[rows]).sum() / weight[rows].sum()
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    folded = w.detach() / std
    return folded.cpu(), (b.detach() - folded @ mean).cpu()


def segment(model: Towers, picture: Tensor, linear: Linear, job: Job) -> Tensor:
    """Class of each pixel: uint8 [H, W, 3] -> int64 [H, W]."""
    image = windows.resized(picture, job.geometry.short_side, model.patch).to(model.device)
    scores = windows.slide(
        image, job.geometry, lambda crops: F.linear(model.patches(crops), *linear).permute(0, 3, 1, 2)
    )
    return windows.best_class(scores, tuple(picture.shape[:2]))


TASK = TaskKind("linear_segmentation", "segmentation", frozenset({MASKS, TRAIN}), run)
