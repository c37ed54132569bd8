"""DINO's photometric augmentations (arXiv 2104.14294, after BYOL): colour jitter, greyscale, blur, solarise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

from torch import Tensor
from torchvision.transforms.v2 import functional as tv

BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.4, 0.4, 0.2, 0.1
JITTER, GREY = 0.8, 0.2  # probabilities
SIGMA = (0.1, 2.0)  # of the blur, in pixels, for views of any size
SOLARIZE_FROM = 128
WIDTH = 10  # uniform numbers that a view needs
_ORDERS = list(permutations(range(4)))


@dataclass(frozen=True)
class Recipe:
    """Probabilities that differ between views."""

    blur: float
    solarize: float


GLOBAL = (Recipe(blur=1.0, solarize=0.0), Recipe(blur=0.1, solarize=0.2))  # the first global crop; the others
LOCAL = Recipe(blur=0.5, solarize=0.0)


def distort_(view: Tensor, u: Sequence[float], recipe: Recipe) -> None:
    """Distort a view [3, R, R] uint8 in place, by WIDTH uniform numbers."""
    jitter, brightness, contrast, saturation, hue, order, grey, blur, sigma, solarize = u
    out = view
    if jitter < JITTER:
        steps = (
            lambda x: tv.adjust_brightness(x, _factor(brightness, BRIGHTNESS)),
            lambda x: tv.adjust_contrast(x, _factor(contrast, CONTRAST)),
            lambda x: tv.adjust_saturation(x, _factor(saturation, SATURATION)),
            lambda x: tv.adjust_hue(x, (2 * hue - 1) * HUE),
        )
        for step in _ORDERS[int(order * len(_ORDERS))]:
            out = steps[step](out)
    if grey < GREY:
        out = tv.rgb_to_grayscale(out, num_output_channels=3)
    if blur < recipe.blur:
        spread = SIGMA[0] + sigma * (SIGMA[1] - SIGMA[0])
        out = tv.gaussian_blur(out, kernel_size=2 * max(1, round(3 * spread)) + 1, sigma=spread)
    if solarize < recipe.solarize:
        out = tv.solarize(out, SOLARIZE_FROM)
    view.copy_(out)


def _factor(u: float, strength: float) -> float:
    return 1 + (2 * u - 1) * strength
