"""Scenes: drawings pasted on a light background, their caption, and the class of every pixel.

A scene is a pure function of its random generator. Scenes are easy on purpose: objects upright and large, backgrounds
pale; with strong backgrounds and colour changes a short run of a small model on small images stays at chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from silc.data.sample_set.captions import write_caption
from silc.data.sample_set.concepts import with_article

SINGLE_SCALE = (0.55, 0.98)  # longer side of an object alone, as a fraction of the image's side
SHARED_SCALE = {  # and of one of several
    2: (0.42, 0.66),
    3: (0.36, 0.56),
    4: (0.32, 0.48),
    5: (0.28, 0.43),
    6: (0.26, 0.4),
    7: (0.24, 0.37),
    8: (0.22, 0.34),
}
PLACES = 12  # random places tried for an object; the one that hides the least of the others is used
OPAQUE = 128  # alpha from which a pixel belongs to the object
BACKGROUNDS = ("plain", "gradient", "blotches", "stripes", "dots")
BACKGROUND_SHARES = (0.4, 0.2, 0.2, 0.1, 0.1)


@dataclass(frozen=True)
class Drawing:
    """One artist's drawing of a concept.

    Attributes:
        pixels: uint8 [h, w, 4], RGBA, without transparent margins.
        concept_id: the concept's index in the split's class names.
        name: the concept in words, "dog".
        artist: name of the artist.
    """

    pixels: np.ndarray
    concept_id: int
    name: str
    artist: str


@dataclass(frozen=True)
class Scene:
    """An image with its mask, caption and objects.

    Attributes:
        image: uint8 [size, size, 3].
        mask: uint16 [size, size]; 0 is background, i the concept i - 1 of the split.
        caption: names every object, in a random order.
        boxes: (left, top, right, bottom) in pixels, right and bottom excluded, of each object as pasted, including
            its hidden parts.
        visible: fraction of each object's opaque pixels that no later object hides.
    """

    image: np.ndarray
    mask: np.ndarray
    caption: str
    boxes: list[tuple[int, int, int, int]]
    visible: list[float]


def draw_scene(rng: np.random.Generator, drawings: Sequence[Drawing], size: int) -> Scene:
    """Paste one to eight drawings, in the order given, on a background of `size` pixels a side."""
    image = draw_background(rng, size)
    owner = np.full((size, size), -1, dtype=np.int64)
    areas: list[int] = []
    boxes: list[tuple[int, int, int, int]] = []
    for number, drawing in enumerate(drawings):
        scaled = _scale(rng, drawing.pixels, size, len(drawings))
        opaque = scaled[..., 3] >= OPAQUE
        left, top = _choose_place(rng, owner, opaque, areas)
        height, width = opaque.shape
        window = (slice(top, top + height), slice(left, left + width))
        alpha = scaled[..., 3:].astype(np.float32) / 255
        image[window] = image[window] * (1 - alpha) + scaled[..., :3] * alpha
        owner[window][opaque] = number
        areas.append(int(opaque.sum()))
        boxes.append((left, top, left + width, top + height))
    shown = np.bincount(owner[owner >= 0], minlength=len(drawings))
    classes = np.array(
        [drawing.concept_id + 1 for drawing in drawings] + [0], dtype=np.uint16
    )  # owner -1 indexes the last
    return Scene(
        image=np.round(image).astype(np.uint8),
        mask=classes[owner],
        caption=write_caption(rng, [with_article(drawing.name) for drawing in drawings]),
        boxes=boxes,
        visible=[round(float(seen / area), 3) for seen, area in zip(shown, areas, strict=True)],
    )


def _scale(rng: np.random.Generator, pixels: np.ndarray, size: int, objects: int) -> np.ndarray:
    """The drawing at a random size, uint8 [h, w, 4]; Pillow weighs colours by alpha, so edges do not darken."""
    low, high = SINGLE_SCALE if objects == 1 else SHARED_SCALE[objects]
    factor = rng.uniform(low, high) * size / max(pixels.shape[:2])
    height, width = (max(1, round(side * factor)) for side in pixels.shape[:2])
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def _choose_place(
    rng: np.random.Generator, owner: np.ndarray, opaque: np.ndarray, areas: Sequence[int]
) -> tuple[int, int]:
    """(left, top) inside the image: the first random place that hides nothing; failing that, the one that leaves the
    largest visible fraction of the most hidden object."""
    height, width = opaque.shape
    best, best_shown = (0, 0), -1.0
    for _ in range(PLACES):
        left = int(rng.integers(owner.shape[1] - width + 1))
        top = int(rng.integers(owner.shape[0] - height + 1))
        after = owner.copy()
        after[top : top + height, left : left + width][opaque] = -1
        left_over = np.bincount(after[after >= 0], minlength=len(areas))
        shown = min((seen / area for seen, area in zip(left_over, areas, strict=True)), default=1.0)
        if shown > best_shown:
            best, best_shown = (left, top), shown
        if best_shown == 1.0:
            break
    return best


def draw_background(rng: np.random.Generator, size: int) -> np.ndarray:
    """A pale plain or textured square, float32 [size, size, 3] on [0, 255]."""
    kind = rng.choice(BACKGROUNDS, p=BACKGROUND_SHARES)
    colour, other = _pale_colour(rng), _pale_colour(rng)
    down, across = np.ogrid[:size, :size]
    share: np.ndarray
    if kind == "plain":
        share = np.zeros((size, size))
    elif kind == "gradient":
        angle = rng.uniform(0, 2 * np.pi)
        ramp = across * np.cos(angle) + down * np.sin(angle)
        share = (ramp - ramp.min()) / np.ptp(ramp)
    elif kind == "blotches":
        cells = int(rng.integers(3, 9))
        noise = Image.fromarray(rng.uniform(0, 1, (cells, cells)).astype(np.float32))
        share = np.asarray(noise.resize((size, size), Image.Resampling.BICUBIC)).clip(0, 1)
    elif kind == "stripes":
        period, angle = rng.uniform(size / 12, size / 4), rng.uniform(0, np.pi)
        share = (across * np.cos(angle) + down * np.sin(angle)) % period < period / 2
    else:
        period = rng.uniform(size / 10, size / 5)
        share = (across % period - period / 2) ** 2 + (down % period - period / 2) ** 2 < (period / 4) ** 2
    return colour + share[..., None].astype(np.float32) * (other - colour)


def _pale_colour(rng: np.random.Generator) -> np.ndarray:
    """A light colour of little saturation, float32 [3] on [0, 255]."""
    return (255 * rng.uniform(0.88, 1.0) * (1 - rng.uniform(0, 0.25) * rng.uniform(0, 1, 3))).astype(np.float32)
