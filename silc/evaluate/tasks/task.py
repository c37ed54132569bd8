"""What a task is: a name, what it needs of the data, and a function that yields its figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from silc.data.splits import DataSet
from silc.evaluate.sharding import Job, Metric
from silc.evaluate.towers import Towers

TRAIN = "train"  # needed beside labels, captions or masks: a split to fit something to
NAMES = 64  # classes whose prompts are encoded at a time
TEMPLATES = ("a {}",)


@dataclass(frozen=True)
class TaskKind:
    """A task.

    Attributes:
        name: as in eval.after.
        data: which data set it is measured on: classification, retrieval or segmentation.
        needs: of the data set: "labels", "captions" or "masks" in its pictures, "train": a training split.
        run: yields the figures (collective).
    """

    name: str
    data: str
    needs: frozenset[str]
    run: Callable[[Towers, DataSet, Job], Iterator[Metric]]

    def missing(self, data: DataSet) -> list[str]:
        """What the data set lacks for this task."""
        needed = self.needs - {TRAIN}
        has = set(data.test.has)
        if data.train is not None and needed <= data.train.has:
            has.add(TRAIN)
        return sorted(self.needs - has)


def class_embeddings(model: Towers, data: DataSet, job: Job) -> Tensor:
    """Unit-length embeddings [C, D] of a data set's classes, on the device (collective)."""
    templates = tuple(job.config.eval.templates) or data.templates or TEMPLATES
    job.notes.append(f"{len(data.classes)} classes, {len(templates)} prompts averaged, as in {templates[0]!r}")
    chunks = [data.classes[first : first + NAMES] for first in range(0, len(data.classes), NAMES)]
    return torch.cat(job.each(chunks, lambda names: model.classes(names, templates).cpu())).to(model.device)
