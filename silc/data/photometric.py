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
PARAMETERS = 8  # numbers that say what happens to a view
ORDERS = list(permutations(range(4)))  # of brightness, contrast, saturation, hue


@dataclass(frozen=True)
class Recipe:
    """Probabilities that differ between views."""

    blur: float
    solarize: float


GLOBAL = (Recipe(blur=1.0, solarize=0.0), Recipe(blur=0.1, solarize=0.2))  # the first global crop; the others
LOCAL = Recipe(blur=0.5, solarize=0.0)


def parameters(u: Sequence[float], recipe: Recipe) -> list[float]:
    """What happens to a view, drawn from WIDTH uniform numbers.

    Returns:
        PARAMETERS numbers: factors of brightness, contrast and saturation; hue shift in turns; order of these four, as
        index in itertools.permutations(range(4)), or -1 for none of them; 1 for grey; sigma of the blur in pixels, or
        0 for none; 1 to solarize.
    """
    jitter, brightness, contrast, saturation, hue, order, grey, blur, sigma, solarize = u
    return [
        1 + (2 * brightness - 1) * BRIGHTNESS,
        1 + (2 * contrast - 1) * CONTRAST,
        1 + (2 * saturation - 1) * SATURATION,
        (2 * hue - 1) * HUE,
        int(order * len(ORDERS)) if jitter < JITTER else -1,
        grey < GREY,
        SIGMA[0] + sigma * (SIGMA[1] - SIGMA[0]) if blur < recipe.blur else 0,
        solarize < recipe.solarize,
    ]


def distort_(view: Tensor, row: Sequence[float]) -> None:
    """Distort a view [3, R, R] uint8 in place, by :func:`parameters`."""
    brightness, contrast, saturation, hue, order, grey, sigma, solarize = row
    out = view
    if order >= 0:
        steps = (
            lambda x: tv.adjust_brightness(x, brightness),
            lambda x: tv.adjust_contrast(x, contrast),
            lambda x: tv.adjust_saturation(x, saturation),
            lambda x: tv.adjust_hue(x, hue),
        )
        for step in ORDERS[int(order)]:
            out = steps[step](out)
    if grey:
        out = tv.rgb_to_grayscale(out, num_output_channels=3)
    if sigma:
        out = tv.gaussian_blur(out, kernel_size=2 * max(1, round(3 * sigma)) + 1, sigma=sigma)
    if solarize:
        out = tv.solarize(out, SOLARIZE_FROM)
    view.copy_(out)
