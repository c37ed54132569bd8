"""What a person looks at: a few pictures with what the models make of them. Computed by one rank."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from silc.config import Config
from silc.data.shards import Unreadable
from silc.data.splits import IGNORE, DataSet, Split, check_mask_size
from silc.distributed import World
from silc.evaluate.datasets import EvalData
from silc.evaluate.runner import Result, unchanged
from silc.evaluate.segmentation import windows
from silc.evaluate.sharding import Job, some_of
from silc.evaluate.tasks import TASKS
from silc.evaluate.tasks.task import class_embeddings
from silc.evaluate.tasks.zeroshot_segmentation import segment
from silc.evaluate.towers import Towers

T = TypeVar("T")
# What pictures to look at may fail with: data that does not fit, memory that runs out, files that are gone.
FAILURES = (ValueError, RuntimeError, OSError)
SIDE = 128  # pixels of a picture shown
SHOWN = 8  # pictures of each kind
POOL = 512  # pictures and captions that compete in the retrieval examples
BLEND = 0.65  # of a class's colour over the picture
WORST = 10  # classes


@dataclass(frozen=True)
class Guess:
    """A picture, what it is, and the best guesses (words, cosine)."""

    picture: np.ndarray
    truth: list[str]
    guesses: list[tuple[str, float]]


@dataclass(frozen=True)
class Found:
    """A caption and the pictures closest to it (picture, is it one of the caption's own)."""

    caption: str
    pictures: list[tuple[np.ndarray, bool]]


@dataclass(frozen=True)
class Panels:
    """Pictures side by side with a name each, and (class name, colour, is it in the truth)."""

    pictures: list[tuple[str, np.ndarray]]
    legend: list[tuple[str, str, bool]] = field(default_factory=list)


@dataclass(frozen=True)
class Confusions:
    """A class that is often missed: its accuracy, pictures, and what it is taken for (name, pictures)."""

    name: str
    accuracy: float
    pictures: int
    taken_for: list[tuple[str, int]]


@dataclass(frozen=True)
class Exhibits:
    """Everything the report shows in pictures; empty lists where no task was measured that they belong to.

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


def collect(config: Config, models: Sequence[Towers], data: EvalData, results: Sequence[Result]) -> Exhibits:
    """Pictures of the tasks that were measured, on this process alone; changes no state.

    What raises one of FAILURES is left out with a sentence: figures are there by now, and stay.
    """
    job = Job(config, World(0, 1, models[0].device), "report", limited=False)
    ran, left_out = {result.task for result in results}, []

    def attempt(what: str, make: Callable[[], T], nothing: T) -> T:
        try:
            return make()
        except FAILURES as error:
            left_out.append(f"{what}: {error}")
            return nothing

    shown = Exhibits(models[0].name, worst=worst(results, data), left_out=left_out)
    with unchanged():
        if "zeroshot_classification" in ran:
            make = lambda: classified(models[0], data.classification, job)  # noqa: E731
            shown.classified.extend(attempt("classified pictures", make, []))
        if "retrieval" in ran:
            make = lambda: retrieved(models[0], data.retrieval, job)  # noqa: E731
            captioned, found = attempt("retrieved captions and pictures", make, ([], []))
            shown.captioned.extend(captioned)
            shown.found.extend(found)
        if "zeroshot_segmentation" in ran:
            make = lambda: segmented(models, data.segmentation, job)  # noqa: E731
            shown.segmented.extend(attempt("segmented pictures", make, []))
        measured = {TASKS[name].data: data.of(TASKS[name]) for name in ran}
        pictured = [measured[kind] for kind in ("segmentation", "retrieval", "classification") if kind in measured]
        if pictured:
            shown.features.extend(attempt("patch features", lambda: features(models, pictured[0], job), []))
    return shown


def classified(model: Towers, data: DataSet, job: Job, count: int = SHOWN) -> list[Guess]:
    """Pictures with their classes and the three classes closest."""
    numbers = some_of([n for n in job.chosen(data.test) if data.test.label(n) is not None], count)
    classes = class_embeddings(model, data, job)
    kept, vectors = job.over_images(data.test, numbers, model.size, model.images)
    best = (vectors.to(classes.device) @ classes.T).topk(min(3, len(classes)), dim=1)
    return [
        Guess(
            thumbnail(data.test.image(number)),
            [data.classes[data.test.label(number)]],
            [(data.classes[i], value) for i, value in zip(row, values, strict=True)],
        )
        for number, row, values in zip(kept, best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def retrieved(model: Towers, data: DataSet, job: Job, count: int = SHOWN) -> tuple[list[Guess], list[Found]]:
    """Pictures with their closest captions, and captions with their closest pictures, among POOL pictures."""
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
    """Pictures, their masks, and the zero-shot segmentation by each model where the mask has a class."""
    classes = {model.name: class_embeddings(model, data, job) for model in models}
    out = []
    for number in _several(data.test, job):
        try:
            picture, truth = data.test.image(number), data.test.mask(number)
        except Unreadable:
            continue
        check_mask_size(truth, picture, data.test.key(number))
        guesses = {model.name: segment(model, picture, classes[model.name], job).cpu() for model in models}
        maps = {"truth": truth} | {name: torch.where(truth == IGNORE, IGNORE, guess) for name, guess in guesses.items()}
        panels = [("picture", thumbnail(picture)), *((name, overlay(picture, m)) for name, m in maps.items())]
        there = truth[truth != IGNORE].unique().tolist()
        guessed, counts = maps[models[0].name][truth != IGNORE].unique(return_counts=True)
        others = [c for c in guessed[counts.argsort(descending=True)].tolist() if c not in there][:4]
        legend = [(data.classes[c], css(c), True) for c in there] + [(data.classes[c], css(c), False) for c in others]
        out.append(Panels(panels, legend))
    return out


def features(models: Sequence[Towers], data: DataSet, job: Job) -> list[Panels]:
    """Pictures and their patch features' first three principal components as red, green, blue."""
    pictures = []
    for number in _several(data.test, job):
        try:
            pictures.append(data.test.image(number))
        except Unreadable:
            continue
    if not pictures:
        raise ValueError(f"{data.test.title}: none of the pictures to show can be read")
    images = [windows.resized(picture, job.geometry.short_side, models[0].patch) for picture in pictures]
    panels = [[("picture", thumbnail(picture))] for picture in pictures]
    for model in models:
        maps = [model.patches(image[None].to(model.device))[0].cpu() for image in images]
        for panel, colours in zip(panels, principal_colours(maps), strict=True):
            panel.append((model.name, colours))
    return [Panels(panel) for panel in panels]


def principal_colours(maps: Sequence[Tensor]) -> list[np.ndarray]:
    """Feature maps [h, w, D] of one model -> uint8 [h, w, 3]: the components of all maps together, 2 to 98 % of each
    component's range spread over a colour.
    """
    rows = torch.cat([one.flatten(0, 1) for one in maps]).double()
    centred = rows - rows.mean(0)
    # The sign of a component is arbitrary: make its largest entry positive, so that a report can be made again.
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    directions = directions[:3] * directions[:3].gather(1, directions[:3].abs().argmax(1, keepdim=True)).sign()
    scores = centred @ directions.T
    low, high = torch.quantile(scores[:100_000], 0.02, dim=0), torch.quantile(scores[:100_000], 0.98, dim=0)
    colours = ((scores - low) / (high - low).clamp(min=1e-12)).clamp(0, 1).mul(255).round().to(torch.uint8)
    colours = F.pad(colours, (0, 3 - colours.shape[1]))
    parts = colours.split([one.shape[0] * one.shape[1] for one in maps])
    return [part.view(*one.shape[:2], 3).numpy() for part, one in zip(parts, maps, strict=True)]


def worst(results: Sequence[Result], data: EvalData) -> list[Confusions]:
    """The classes with the lowest zero-shot accuracy, of the first model measured."""
    result = next((r for r in results if r.task == "zeroshot_classification" and "truth" in r.details), None)
    if result is None:
        return []
    truth, guess = result.details["truth"], result.details["guess"]
    out = []
    for number in truth.unique().tolist():
        mine = guess[truth == number]
        wrong, counts = mine[mine != number].unique(return_counts=True)
        order = counts.argsort(descending=True, stable=True)[:3]
        taken = [(data.classification.classes[wrong[i]], int(counts[i])) for i in order]
        share = (mine == number).double().mean().item()
        out.append(Confusions(data.classification.classes[number], share, len(mine), taken))
    return sorted((c for c in out if c.taken_for), key=lambda c: (c.accuracy, -c.pictures, c.name))[:WORST]


def thumbnail(picture: Tensor) -> np.ndarray:
    """uint8 [H, W, 3] -> the longer side at SIDE pixels."""
    scale = SIDE / max(picture.shape[:2])
    size = tuple(max(1, round(side * scale)) for side in picture.shape[:2])
    small = F.interpolate(picture.permute(2, 0, 1)[None].float(), size, mode="bilinear", antialias=True)
    return small[0].round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()


def overlay(picture: Tensor, classes: Tensor) -> np.ndarray:
    """Classes [H, W] in colours over a pale picture; pixels of no class are the pale picture alone."""
    base = thumbnail(picture).astype(np.float32)
    base = 255 - (255 - base.mean(-1, keepdims=True).repeat(3, -1)) * 0.5
    small = F.interpolate(classes[None, None].double(), base.shape[:2], mode="nearest-exact")[0, 0].long().numpy()
    out = base.copy()
    for number in np.unique(small[small != IGNORE]):
        out[small == number] = (1 - BLEND) * base[small == number] + BLEND * np.array(colour(int(number)))
    return out.round().astype(np.uint8)


def colour(number: int) -> tuple[int, int, int]:
    """Of a class: hues a golden ratio apart, in three strengths."""
    strength = ((0.85, 0.9), (0.6, 0.75), (0.95, 0.6))[number % 3]
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(number * 0.618034 % 1, *strength))


def css(number: int) -> str:
    """The class's colour for a style sheet."""
    return "#{:02x}{:02x}{:02x}".format(*colour(number))


def _best(row: Tensor, words: Sequence[str], count: int) -> list[tuple[str, float]]:
    top = row.topk(min(count, len(words)))
    return [(words[i], value) for i, value in zip(top.indices.tolist(), top.values.tolist(), strict=True)]


def _several(split: Split, job: Job) -> list[int]:
    """Pictures to show dense features of: of the second half, where the sample set has several objects a picture."""
    numbers = job.chosen(split)
    return some_of(numbers[len(numbers) // 2 :] if len(numbers) >= 2 * SHOWN else numbers, SHOWN)
