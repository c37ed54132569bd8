"""The examples of the report: a few images with what the models make of them. Computed by one rank."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from silc.config import Config
from silc.data.shards import Unreadable
from silc.data.splits import IGNORE, DataSet, Split, image_and_mask
from silc.distributed import World
from silc.evaluate.datasets import EvalData
from silc.evaluate.report import palette
from silc.evaluate.report.pixels import overlay, principal_colors, thumbnail
from silc.evaluate.runner import Result, unchanged
from silc.evaluate.segmentation import windows
from silc.evaluate.sharding import Job, TaskFailed, some_of
from silc.evaluate.tasks import TASKS
from silc.evaluate.tasks.task import class_embeddings
from silc.evaluate.tasks.zeroshot_segmentation import segment
from silc.evaluate.towers import Towers

# What examples may fail with: data that does not fit, memory that runs out, files that are gone.
FAILURES = (TaskFailed, ValueError, RuntimeError, OSError, MemoryError)
SHOWN = 8  # images of each kind
POOL = 512  # images and captions that compete in the retrieval examples
WORST = 10  # classes
LEGEND = 6  # classes in a legend that the models found and the truth does not have


@dataclass(frozen=True)
class Guess:
    """An image, what it is, and the best guesses (words, cosine)."""

    image: np.ndarray
    truth: list[str]
    guesses: list[tuple[str, float]]


@dataclass(frozen=True)
class Found:
    """A caption and the images closest to it (image, is it one of the caption's own)."""

    caption: str
    images: list[tuple[np.ndarray, bool]]


@dataclass(frozen=True)
class LegendEntry:
    """A class of the overlays. color: for a style sheet; in_truth: whether the mask has it."""

    name: str
    color: str
    in_truth: bool


@dataclass(frozen=True)
class Panels:
    """Images side by side with a name each, and a legend. more: classes found that have no entry in the legend."""

    images: list[tuple[str, np.ndarray]]
    legend: list[LegendEntry] = field(default_factory=list)
    more: int = 0


@dataclass(frozen=True)
class Confusions:
    """A class that is often missed: its accuracy, number of images, and what it is taken for (name, images)."""

    name: str
    accuracy: float
    images: int
    taken_for: list[tuple[str, int]]


@dataclass(frozen=True)
class Examples:
    """Everything the report shows in images; empty lists where no task was measured that they belong to.

    Attributes:
        model: whose guesses `classified`, `captioned`, `found` and `worst` are.
        left_out: what could not be made and why, a sentence each.
    """

    model: str
    classified: list[Guess] = field(default_factory=list)
    captioned: list[Guess] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)
    segmented: list[Panels] = field(default_factory=list)
    features: list[Panels] = field(default_factory=list)
    worst: list[Confusions] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def collect(config: Config, models: Sequence[Towers], data: EvalData, results: Sequence[Result]) -> Examples:
    """Examples of the tasks that were measured, by this process alone; changes no state.

    What raises one of FAILURES is left out with a sentence: the metrics are measured by now, and are kept.
    """
    job = Job(config, World(0, 1, models[0].device), "report", limited=False)
    ran = {result.task for result in results}
    shown = Examples(models[0].name, worst=worst(results, data))
    known, captioned, masked = data.classification, data.retrieval, data.segmentation
    with unchanged():
        if "zeroshot_classification" in ran and known is not None:
            with _or_left_out("classified images", shown.left_out):
                shown.classified.extend(classified(models[0], known, job))
        if "retrieval" in ran and captioned is not None:
            with _or_left_out("retrieved captions and images", shown.left_out):
                forth, back = retrieved(models[0], captioned, job)
                shown.captioned.extend(forth)
                shown.found.extend(back)
        if "zeroshot_segmentation" in ran and masked is not None:
            with _or_left_out("segmented images", shown.left_out):
                shown.segmented.extend(segmented(models, masked, job))
        measured = {TASKS[name].data: data.of(TASKS[name]) for name in ran}
        sources = [measured.get(kind) for kind in ("segmentation", "retrieval", "classification")]
        source = next((one for one in sources if one is not None), None)
        if source is not None:
            with _or_left_out("patch features", shown.left_out):
                shown.features.extend(features(models, source, job))
    return shown


@contextmanager
def _or_left_out(what: str, left_out: list[str]) -> Iterator[None]:
    """One of FAILURES ends the block with a sentence in `left_out`."""
    try:
        yield
    except FAILURES as error:
        left_out.append(f"{what}: {error}")


def classified(model: Towers, data: DataSet, job: Job, count: int = SHOWN) -> list[Guess]:
    """Images with their classes and the three closest classes."""
    labels = {n: label for n in job.chosen(data.test) if (label := data.test.label(n)) is not None}
    numbers = some_of(list(labels), count)
    classes = class_embeddings(model, data, job)
    kept, vectors = job.over_images(data.test, numbers, model.size, model.images)
    best = (vectors.to(classes.device) @ classes.T).topk(min(3, len(classes)), dim=1)
    return [
        Guess(
            thumbnail(data.test.image(number)),
            [data.classes[labels[number]]],
            [(data.classes[i], value) for i, value in zip(row, values, strict=True)],
        )
        for number, row, values in zip(kept, best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def retrieved(model: Towers, data: DataSet, job: Job, count: int = SHOWN) -> tuple[list[Guess], list[Found]]:
    """Images with their closest captions, and captions with their closest images, among POOL images."""
    split = data.test
    numbers = [n for n in some_of(job.chosen(split), POOL) if split.captions(n)]
    kept, images = job.over_images(split, numbers, model.size, model.images)
    captions = [split.captions(number) for number in kept]
    distinct = list(dict.fromkeys(caption for row in captions for caption in row))
    similarity = images @ model.texts(distinct).cpu().T
    shown = some_of(list(range(len(kept))), count)
    forth = [Guess(thumbnail(split.image(kept[i])), captions[i], _best(similarity[i], distinct, 3)) for i in shown]
    back = []
    for caption in list(dict.fromkeys(captions[i][0] for i in shown))[: count // 2]:
        closest = similarity[:, distinct.index(caption)].topk(min(5, len(kept))).indices.tolist()
        back.append(Found(caption, [(thumbnail(split.image(kept[j])), caption in captions[j]) for j in closest]))
    return forth, back


def segmented(models: Sequence[Towers], data: DataSet, job: Job) -> list[Panels]:
    """Images, their masks, and the zero-shot segmentation by each model where the mask has a class."""
    classes = {model.name: class_embeddings(model, data, job) for model in models}
    shown: list[tuple[Tensor, dict[str, Tensor]]] = []
    for number in _several(data.test, job):
        try:
            image, truth = image_and_mask(data.test, number)
            guesses = {model.name: segment(model, image, classes[model.name], job).cpu() for model in models}
        except Unreadable:
            continue
        inside = {name: torch.where(truth == IGNORE, IGNORE, guess) for name, guess in guesses.items()}
        shown.append((image, {"truth": truth} | inside))
    present = [_largest_first(maps.values()) for _, maps in shown]
    out = []
    for (image, maps), numbers, colors in zip(shown, present, palette.assign(present), strict=True):
        panels = [("image", thumbnail(image)), *((name, overlay(image, one, colors)) for name, one in maps.items())]
        true = set(_largest_first([maps["truth"]]))
        others = [n for n in numbers if n not in true]
        entries = [n for n in numbers if n in true] + others[:LEGEND]
        legend = [LegendEntry(data.classes[n], palette.css(colors[n]), n in true) for n in entries]
        out.append(Panels(panels, legend, len(others[LEGEND:])))
    return out


def _largest_first(maps: Iterable[Tensor]) -> list[int]:
    """Classes that occur in class maps, by the number of their pixels in all of them."""
    pixels = torch.cat([one[one != IGNORE].flatten() for one in maps])
    numbers, counts = pixels.unique(return_counts=True)
    return numbers[counts.argsort(descending=True, stable=True)].tolist()


def features(models: Sequence[Towers], data: DataSet, job: Job) -> list[Panels]:
    """Images and their patch features' first three principal components as red, green, blue."""
    originals, images = [], []
    for number in _several(data.test, job):
        try:
            original = data.test.image(number)
            images.append(windows.resized(original, job.geometry.short_side, models[0].patch))
        except Unreadable:
            continue
        originals.append(original)
    if not originals:
        raise ValueError(f"{data.test.title}: none of the images to show can be read")
    panels = [[("image", thumbnail(image))] for image in originals]
    for model in models:
        maps = [model.patches(image[None].to(model.device))[0].cpu() for image in images]
        for panel, colors in zip(panels, principal_colors(maps), strict=True):
            panel.append((model.name, colors))
    return [Panels(panel) for panel in panels]


def worst(results: Sequence[Result], data: EvalData) -> list[Confusions]:
    """The classes with the lowest zero-shot accuracy, of the first model measured."""
    result = next((r for r in results if r.task == "zeroshot_classification" and "truth" in r.details), None)
    if result is None or data.classification is None:
        return []
    classes = data.classification.classes
    truth, guess = result.details["truth"], result.details["guess"]
    out = []
    for number in truth.unique().tolist():
        mine = guess[truth == number]
        wrong, counts = mine[mine != number].unique(return_counts=True)
        order = counts.argsort(descending=True, stable=True)[:3]
        taken = [(classes[int(wrong[i])], int(counts[i])) for i in order]
        share = (mine == number).double().mean().item()
        out.append(Confusions(classes[number], share, len(mine), taken))
    return sorted((c for c in out if c.taken_for), key=lambda c: (c.accuracy, -c.images, c.name))[:WORST]


def _best(row: Tensor, words: Sequence[str], count: int) -> list[tuple[str, float]]:
    top = row.topk(min(count, len(words)))
    return [(words[i], value) for i, value in zip(top.indices.tolist(), top.values.tolist(), strict=True)]


def _several(split: Split, job: Job) -> list[int]:
    """Images to show dense features of: of the second half, where those of the sample set have several objects."""
    numbers = job.chosen(split)
    return some_of(numbers[len(numbers) // 2 :] if len(numbers) >= 2 * SHOWN else numbers, SHOWN)
