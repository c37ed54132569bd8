"""Colors of classes over an image: any two of one image can be told apart, with color-blind eyes too."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Sequence

import numpy as np

COUNT = 30  # colors; an image with more classes repeats them
BLEND = 0.75  # of a class's color over the gray image
GRAY = 235.0  # a common level of the gray image, which is kept pale
LEVELS = 13  # candidates a channel
CHROMA = 0.08  # at least this in OKLab, for pure colors: a gray one would pass for a pixel without a class
LIGHTNESS = (0.3, 0.88)
FIRST = (31, 119, 220)
# How much a difference seen by color-blind eyes counts: they see a plane of colors, in which 30 lie closer together.
COLOR_BLIND = 2.0

Color = tuple[int, int, int]

# Linear sRGB -> cone responses -> OKLab: B. Ottosson, "A perceptual color space for image processing" (2020).
_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
# Linear sRGB as eyes without one kind of cones see it: Machado, Oliveira and Fernandes (2009), severity 1.0.
PROTANOPIA = np.array(
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
)
DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
)


def oklab(colors: np.ndarray, vision: np.ndarray | None = None) -> np.ndarray:
    """sRGB [n, 3] of 0 to 255 -> OKLab [n, 3]; vision: PROTANOPIA or DEUTERANOPIA. Distances there are perceptual."""
    values = np.asarray(colors, dtype=np.float64) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    if vision is not None:
        linear = (linear @ vision.T).clip(0, 1)
    return np.cbrt(linear @ _CONES.T) @ _LAB.T


def blended(colors: np.ndarray, gray: np.ndarray | float = GRAY) -> np.ndarray:
    """What is shown of a class's color over the gray image."""
    return BLEND * np.asarray(colors, dtype=np.float64) + (1 - BLEND) * gray


@functools.cache
def palette() -> tuple[Color, ...]:
    """COUNT colors, each as far as possible from those before it: the fewer are used, the further they lie apart.

    A distance of two colors is that of what is shown of them (`blended`), the smallest of the kinds of vision.
    """
    levels = np.linspace(0, 255, LEVELS).round()
    colors = np.array(list(itertools.product(levels, repeat=3)))
    lab = oklab(colors)
    low, high = LIGHTNESS
    colors = colors[(np.hypot(lab[:, 1], lab[:, 2]) >= CHROMA) & (lab[:, 0] >= low) & (lab[:, 0] <= high)]
    shown = blended(colors)
    seen = [oklab(shown), *(COLOR_BLIND * oklab(shown, vision) for vision in (PROTANOPIA, DEUTERANOPIA))]

    def distances(number: int) -> np.ndarray:
        return np.minimum.reduce([np.linalg.norm(lab - lab[number], axis=1) for lab in seen])

    chosen = [int(np.linalg.norm(colors - np.array(FIRST), axis=1).argmin())]
    nearest = distances(chosen[0])
    while len(chosen) < COUNT:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, distances(chosen[-1]))
    return tuple((int(red), int(green), int(blue)) for red, green, blue in colors[chosen])


def assign(images: Iterable[Sequence[int]]) -> list[dict[int, Color]]:
    """Class -> color for each image, given the classes that occur in each, the largest first.

    Up to COUNT classes of one image have a color each. A class has the same color in every image where that is
    possible: always, if there are no more than COUNT classes in all.
    """
    home: dict[int, Color] = {}
    return [_of_image(list(dict.fromkeys(classes)), home) for classes in images]


def _of_image(classes: list[int], home: dict[int, Color]) -> dict[int, Color]:
    """Classes of one image; `home`, the color that a class had last, is brought up to date."""
    colors = palette()
    used: dict[int, Color] = {}
    for number in classes:
        if number in home and home[number] not in used.values():
            used[number] = home[number]
    for number in classes:
        if number not in used:
            taken = set(used.values())
            free = [color for color in colors if color not in taken] or [colors[len(used) % COUNT]]
            # Rather one that no class has yet, so that classes keep theirs.
            used[number] = next((color for color in free if color not in home.values()), free[0])
            home[number] = used[number]
    return {number: used[number] for number in classes}


def css(color: Color) -> str:
    """What is shown of a class's color over the gray image, for a style sheet."""
    red, green, blue = (round(float(part)) for part in blended(np.array(color)))
    return f"#{red:02x}{green:02x}{blue:02x}"
