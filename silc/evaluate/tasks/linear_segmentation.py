"""A linear classifier of frozen patch features: what they know of the image without the text.

At most PATCHES patches an image of the training split, drawn among those with a class; each is weighted by the share of
its pixels that have one. Multinomial logistic regression by AdamW on standardised features. All ranks compute the
features and measure; rank 0 fits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from silc.data.splits import IGNORE, MASKS, DataSet
from silc.evaluate.metric import Metric
from silc.evaluate.segmentation import iou, windows
from silc.evaluate.segmentation.measure import measure
from silc.evaluate.segmentation.patch_labels import cells, training_windows
from silc.evaluate.sharding import Job, bytes_of
from silc.evaluate.tasks.task import TRAIN, Task
from silc.evaluate.towers import Towers
from silc.text import plural

PATCHES = 64
BATCH = 2048
LEARNING_RATE = 0.02
WEIGHT_DECAY = 1e-4
STD_FLOOR = 1e-5

Linear = tuple[Tensor, Tensor]
"""weight [C, D], bias [C]"""


def run(model: Towers, data: DataSet, job: Job) -> Iterator[Metric]:
    """Mean IoU, pixel accuracy, mean accuracy, and the measures among the classes present, on the test split."""
    classes, split, evaluation = len(data.classes), data.training, job.config.eval
    chosen = job.chosen(split, evaluation.train_images)
    parts = job.several(
        split,
        chosen,
        lambda index: training_windows(split, index, model.patch, job),
        lambda read: patches(model, read, classes, job.geometry.batch),
        lambda both: sum(map(bytes_of, both)),
    )
    usable = [part for part in parts if len(part[1])]
    if not usable:
        why = job.why_unusable(split, chosen)
        raise ValueError(f"{split.title}: no pixel of {plural(len(chosen), 'mask')} has a class; {why}")
    x, y, weight = (torch.cat(column) for column in zip(*usable, strict=True))
    w, b = job.on_main(
        lambda: fit(x.float(), y, weight, classes, evaluation.probe_steps, model.device, check=job.check)
    )
    linear = w.to(model.device), b.to(model.device)
    indices = job.chosen(data.test, evaluation.test_images or None)
    measured = measure(
        job, data.test, indices, classes, model.patch, lambda crops: logits(model, crops, linear), among_present=True
    )
    job.notes.append(
        f"{plural(len(y), 'patch', 'patches')} of {plural(len(chosen), 'image')} of {split.title}, "
        f"{plural(evaluation.probe_steps, 'step')}; {plural(len(indices), 'image')} of {data.test.title}; "
        f"{job.geometry.words()}"
    )
    job.notes.append(f"background: {data.background}")
    job.details["iou"] = iou.per_class(iou.total(measured.rows[0], classes))
    yield from measured.metrics(job)


def patches(
    model: Towers, read: Sequence[tuple[int, tuple[Tensor, Tensor]]], classes: int, batch: int
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Features [m, D] in half precision, classes [m], weights [m] of each image's patches; which of its patches is a
    function of its index.

    read: indices with windows and their pixels' classes, by :func:`training_windows`. batch: windows in a forward pass.
    """
    crops = [images.to(model.device) for _, (images, _) in read]
    out = []
    for (index, (_, truth)), features in zip(read, windows.batched(crops, batch, model.patches), strict=True):
        label, share = cells(truth, model.patch, classes)
        known = (label.flatten() != IGNORE).nonzero()[:, 0]
        generator = torch.Generator().manual_seed(index)
        some = known[torch.randperm(len(known), generator=generator)[:PATCHES]]
        out.append((features.cpu().flatten(0, 2)[some].half(), label.flatten()[some], share.flatten()[some]))
    return out


@torch.enable_grad()  # the runner turns gradients off
def fit(
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    classes: int,
    steps: int,
    device: torch.device,
    check: Callable[[], None] = lambda: None,
) -> Linear:
    """Weighted multinomial logistic regression: classes y [m] from features x [m, D]; a pure function of its arguments.

    Returns weight and bias on the CPU. `check` is called every few steps.
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


def logits(model: Towers, crops: Tensor, linear: Linear) -> Tensor:
    """Of each class at each patch: uint8 [n, 3, rows, columns] -> fp32 [n, C, h, w]."""
    return F.linear(model.patches(crops), *linear).permute(0, 3, 1, 2)


TASK = Task("linear_segmentation", "segmentation", frozenset({MASKS, TRAIN}), run)
