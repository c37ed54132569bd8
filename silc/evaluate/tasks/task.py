"""What a task is: a name, what it needs of the data, and a function that yields its metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from silc.data.splits import DataSet
from silc.evaluate.metric import Metric
from silc.evaluate.sharding import Job
from silc.evaluate.towers import Towers
from silc.text import plural

TRAIN = "train"  # needed beside labels, captions or masks: a split to fit something to
NAMES = 64  # classes whose prompts are encoded at a time
TEMPLATES = ("a {}",)


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        name: as in eval.after.
        data: which data set it is measured on: classification, retrieval or segmentation.
        needs: what the data set must have: LABELS, CAPTIONS or MASKS of its images, TRAIN for a training split.
        run: yields the metrics (collective).
    """

    name: str
    data: str
    needs: frozenset[str]
    run: Callable[[Towers, DataSet, Job], Iterator[Metric]]

    def missing(self, data: DataSet) -> list[str]:
        """What the data set lacks for this task, in words."""
        needed = self.needs - {TRAIN}
        lacking = sorted(needed - data.test.has)
        if TRAIN in self.needs and not (data.train is not None and needed <= data.train.has):
            lacking.append("training split" if data.train is None else f"{' or '.join(sorted(needed))} to train on")
        return lacking


def class_embeddings(model: Towers, data: DataSet, job: Job) -> Tensor:
    """Unit-length embeddings [C, D] of a data set's classes, on the device (collective)."""
    templates = tuple(job.config.eval.templates) or data.templates or TEMPLATES
    averaged = "" if len(templates) == 1 else " averaged, such as"
    prompts = f"{plural(len(templates), 'prompt')}{averaged or ':'} {templates[0]!r}"
    job.notes.append(f"{plural(len(data.classes), 'class', 'classes')}, {prompts}")
    chunks = [data.classes[first : first + NAMES] for first in range(0, len(data.classes), NAMES)]
    return torch.cat(job.each(chunks, lambda names: model.classes(names, templates).cpu())).to(model.device)
