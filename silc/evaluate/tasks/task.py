"""What a task is: a name, what it needs of the data, and a function that yields its metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from silc.data.prompts import expanded, in_words
from silc.data.splits import LABELS, MASKS, DataSet, Split
from silc.evaluate.metric import Metric
from silc.evaluate.sharding import Job
from silc.evaluate.towers import TEXTS, Towers
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
        scaled: whether it needs the scale of the model's logits.
    """

    name: str
    data: str
    needs: frozenset[str]
    run: Callable[[Towers, DataSet, Job], Iterator[Metric]]
    scaled: bool = False

    def missing(self, data: DataSet) -> list[str]:
        """What the data set lacks for this task, in words."""
        needed = self.needs - {TRAIN}
        lacking = sorted(needed - data.test.has)
        if needed & data.test.has & {LABELS, MASKS} and not data.classes:
            lacking.append("class names (eval.classes)")
        if TRAIN in self.needs and not (data.train is not None and needed <= data.train.has):
            lacking.append("training split" if data.train is None else f"{' or '.join(sorted(needed))} to train on")
        return lacking

    def unfit(self, model: Towers) -> str | None:
        """What the model lacks for this task, in words; None where it can be measured."""
        return f"the scale of {model.name}'s logits is not known" if self.scaled and model.scale is None else None


def image_features(model: Towers, split: Split, indices: Sequence[int], job: Job) -> tuple[list[int], Tensor]:
    """Unit-length features of whole images: the indices of those that could be read, and [n, D] on the CPU
    (collective). Tasks of an evaluation that ask for the same images share them.
    """
    return job.over_images(split, indices, model.size, model.images, ("features", id(model)))


def text_features(model: Towers, texts: Sequence[str], job: Job) -> Tensor:
    """Unit-length features of texts, [len(texts), D] on the CPU (collective)."""
    chunks = [texts[first : first + TEXTS] for first in range(0, len(texts), TEXTS)]
    return torch.cat(job.each(chunks, lambda chunk: model.texts(chunk).cpu()))


def class_embeddings(model: Towers, data: DataSet, job: Job) -> Tensor:
    """Unit-length embeddings [C, D] of a data set's classes, on the device (collective)."""
    templates = expanded(job.config.eval.templates) or data.templates or TEMPLATES
    job.notes.append(f"{plural(len(data.classes), 'class', 'classes')}, {in_words(templates)}")
    chunks = [data.classes[first : first + NAMES] for first in range(0, len(data.classes), NAMES)]
    return torch.cat(job.each(chunks, lambda names: model.classes(names, templates).cpu())).to(model.device)
