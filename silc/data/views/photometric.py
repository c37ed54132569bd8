"""DINO's photometric augmentations (arXiv 2104.14294, after BYOL): color jitter, greyscale, blur, solarize.

What happens to a view is drawn here; distort.py does it on the processor, silc_kernels.photometric on a device, both
by this definition: colors are real numbers in 0 .. 255, and nothing is rounded between the steps, only at the
end, half to even.

    brightness f    f x, clamped to 0 .. 255
    contrast f      f x + (1 - f) mean(grey), clamped; the mean is the view's, as it is at that step
    saturation f    f x + (1 - f) grey, clamped
    hue s           HSV's hue (hexcone) turned by s turns, at most a sixth of one
    grey            red, green and blue become 0.2989 red + 0.587 green + 0.114 blue
    blur sigma      Gaussian of 2 max(1, round(3 sigma)) + 1 taps, which sum to 1, in both directions; borders reflected
    solarize        255 - x where x >= 128

These are torchvision's operations on floating-point images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.4, 0.4, 0.2, 0.1
JITTER, GREY = 0.8, 0.2  # probabilities
SIGMA = (0.1, 2.0)  # of the blur, in pixels, for views of any size
GREYS = (0.2989, 0.587, 0.114)  # of red, green, blue
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
