"""A PNG of dense maps side by side: of a few test images, where each of several models finds the classes in them.

An object's map is the cosine of the value path's patch features with the class's embedding, as zero-shot segmentation
computes it; of the classes that the image shows, each pixel is assigned the one of the highest cosine. So it shows
*where* a model finds a class, given that it is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from silc.data.shards import Unreadable
from silc.data.splits import IGNORE, DataSet, Split, image_and_mask
from silc.evaluate.report import palette
from silc.evaluate.report.contact_sheet import INK, MARGIN, fit
from silc.evaluate.report.palette import BLEND, Color
from silc.evaluate.report.pixels import overlay, thumbnail
from silc.evaluate.segmentation import windows
from silc.evaluate.sharding import Job
from silc.evaluate.tasks.task import class_embeddings
from silc.evaluate.tasks.zeroshot_segmentation import cosines
from silc.evaluate.towers import Towers

CELL, LINE = 112, 14  # pixels a side of a cell, and of a line of text
ROWS = 4  # images
HEATS = 2  # classes of an image, the largest, that have a map of their own
CLASSES = (2, 4)  # in an image that is chosen
LOOKED = 512  # masks that are looked at
MODELS = 6  # side by side, at most: the picture is 2,300 pixels wide then
NAMES = 3  # lines of a legend


@dataclass(frozen=True)
class Maps:
    """What a model finds in an image.

    Attributes:
        assigned: of the classes that the image shows, the one of the highest cosine at each pixel, int64 [H, W].
        heats: class -> cosine at each pixel, fp32 [H, W].
    """

    assigned: Tensor
    heats: dict[int, Tensor]


@dataclass(frozen=True)
class Row:
    """An image, uint8 [H, W, 3], its classes or IGNORE, int64 [H, W], and what each model finds in it."""

    image: Tensor
    truth: Tensor
    found: list[Maps]

    @property
    def present(self) -> list[int]:
        """Classes that it shows, the largest first."""
        return largest_first(self.truth)


def largest_first(truth: Tensor) -> list[int]:
    """The classes of a mask by the number of their pixels; of equals the first."""
    numbers, counts = truth[truth != IGNORE].unique(return_counts=True)
    return numbers[counts.argsort(descending=True, stable=True)].tolist()


def choose(split: Split, indices: Sequence[int], count: int = ROWS) -> list[int]:
    """Images of two to four classes whose smallest one covers the most, each class in one of them only if possible.

    Only masks are looked at, the first LOOKED of `indices`: what the models make of an image has no part in the choice.
    Raises ValueError where no image shows two classes.
    """
    sizes: list[tuple[float, int, set[int]]] = []
    for index in indices[:LOOKED]:
        try:
            mask = split.mask(index)
        except Unreadable:
            continue
        numbers, pixels = mask[mask != IGNORE].unique(return_counts=True)
        if CLASSES[0] <= len(numbers) <= CLASSES[1]:
            sizes.append((-int(pixels.min()) / mask.numel(), index, set(numbers.tolist())))
    if not sizes:
        raise ValueError(
            f"{split.title}: of the first {min(len(indices), LOOKED)} images none shows {CLASSES[0]} to {CLASSES[1]} "
            "classes"
        )
    sizes.sort(key=lambda one: one[:2])
    chosen: list[int] = []
    seen: set[int] = set()
    for _, index, classes in sizes:
        if not classes & seen and len(chosen) < count:
            chosen.append(index)
            seen |= classes
    rest = [index for _, index, _ in sizes if index not in chosen]
    return chosen + rest[: count - len(chosen)]


def rows(models: Sequence[tuple[Towers, Job]], data: DataSet) -> list[Row]:
    """The images to show with what the models find in them.

    Args:
        models: each with a job of its own configuration, measured alike; the images are those of the first.
        data: with masks.

    Raises ValueError where no image is fit to be shown.
    """
    job = models[0][1]
    indices = choose(data.test, job.chosen(data.test, job.config.eval.test_images or None))
    embedded = [class_embeddings(model, data, own) for model, own in models]
    out = []
    for index in indices:
        try:
            image, truth = image_and_mask(data.test, index)
            present = largest_first(truth)
            found = [
                find(model, image, classes[present], present, own)
                for (model, own), classes in zip(models, embedded, strict=True)
            ]
        except Unreadable:
            continue
        out.append(Row(image, truth, found))
    if not out:
        raise ValueError(f"{data.test.title}: none of the images to show can be read")
    return out


def find(model: Towers, image: Tensor, embedded: Tensor, present: Sequence[int], job: Job) -> Maps:
    """What a model finds in an image, uint8 [H, W, 3], of the classes `present` with these embeddings, [n, D]."""
    pixels = windows.resized(image, job.geometry.short_side, model.patch).to(model.device)
    scores = windows.slide(pixels, job.geometry, lambda crops: cosines(model.values(crops), embedded)).cpu()
    size = tuple(image.shape[:2])
    best = torch.tensor(present)[windows.best_class(scores, size)]
    shown = windows.upsample(scores[:HEATS], size)
    return Maps(best, dict(zip(present, shown, strict=False)))


def draw(names: Sequence[str], classes: Sequence[str], shown: Sequence[Row], title: str, path: Path) -> None:
    """Write the picture.

    Args:
        names: of the models, in the order of each row's `found`; at most MODELS.
        classes: names by class number.
        shown: the rows.
        title: above them.
        path: of the PNG; its folder is made.
    """
    step, high = CELL + MARGIN, CELL + NAMES * LINE + MARGIN
    columns = 2 + len(names) * (1 + HEATS)
    top = 2 * (LINE + 6) + MARGIN
    sheet = Image.new("RGB", (columns * step + MARGIN, top + len(shown) * high), "white")
    pen, font, bold = ImageDraw.Draw(sheet), ImageFont.load_default(11), ImageFont.load_default(14)
    pen.text((MARGIN, 4), fit(title, bold, sheet.width - 2 * MARGIN), fill=INK, font=bold)
    heads = [(0, 1, "image"), (1, 1, "true classes")]
    heads += [(2 + number * (1 + HEATS), 1 + HEATS, name) for number, name in enumerate(names)]
    for column, cells, name in heads:
        pen.text((MARGIN + column * step, LINE + 12), fit(name, bold, cells * step - MARGIN), fill=INK, font=bold)
    for number, (row, colors) in enumerate(zip(shown, palette.assign([one.present for one in shown]), strict=True)):
        y = top + number * high
        for column, (pixels, lines) in enumerate(_cells(row, classes, colors)):
            x = MARGIN + column * step
            cell = Image.fromarray(pixels)
            cell.thumbnail((CELL, CELL))
            sheet.paste(cell, (x, y))
            for line, (color, text) in enumerate(lines):
                at, left = y + CELL + 2 + line * LINE, x
                if color is not None:
                    pen.rectangle((x, at + 2, x + 8, at + 10), fill=palette.css(color))
                    left += 12
                pen.text((left, at), fit(text, font, CELL - (left - x)), fill=INK, font=font)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


Cell = tuple[np.ndarray, list[tuple[Color | None, str]]]  # pixels, and lines of text with a square of a color before


def _cells(row: Row, classes: Sequence[str], colors: Mapping[int, Color]) -> list[Cell]:
    """The image, its classes with their names, and of each model the classes it assigns and its maps."""
    present = row.present
    legend: list[tuple[Color | None, str]] = [(colors[number], classes[number]) for number in present[:NAMES]]
    if len(present) > NAMES:
        legend[-1] = (None, f"and {len(present) - NAMES + 1} more")
    cells: list[Cell] = [(thumbnail(row.image, CELL), []), (overlay(row.image, row.truth, colors, CELL), legend)]
    counted = row.truth != IGNORE
    for maps in row.found:
        inside = torch.where(counted, maps.assigned, IGNORE)
        right = (maps.assigned == row.truth)[counted].double().mean().item()
        cells.append((overlay(row.image, inside, colors, CELL), [(None, "assigned:"), (None, f"{right:.0%} right")]))
        for number, cosine in maps.heats.items():
            cells.append((heat(row.image, cosine, colors[number]), [(colors[number], classes[number])]))
    return cells


def heat(image: Tensor, cosine: Tensor, color: Color) -> np.ndarray:
    """A map [H, W] as the strength of a color over the pale gray image, from its lowest value, none, to its highest;
    uint8 [h, w, 3].
    """
    low, high = float(cosine.min()), float(cosine.max())
    level = (cosine - low) / max(high - low, 1e-12)
    nothing = torch.full(image.shape[:2], IGNORE)
    base = overlay(image, nothing, {}, CELL).astype(np.float32)
    small = F.interpolate(level[None, None].float(), list(base.shape[:2]), mode="bilinear", antialias=True)[0, 0]
    share = BLEND * small.clamp(0, 1).numpy()[..., None]
    return (share * np.array(color, dtype=np.float32) + (1 - share) * base).round().astype(np.uint8)
