"""The photometric list, a view at a time in float64: the definition. Levels are real numbers from 0 to 255, of which
nothing is rounded before the end.

To read, and to test against; the op computes the same to a level, in less time.
"""

import torch
from torch import Tensor

from .parameters import GREY_WEIGHTS, ORDERS, SOLARIZE_FROM, radius


def photometric(views: Tensor, parameters: Tensor) -> Tensor:
    """uint8 [n, 3, H, W] and rows [n, 8] -> uint8 [n, 3, H, W]. See `ops.photometric`."""
    return torch.stack([_one(view.double(), row) for view, row in zip(views, parameters.tolist(), strict=True)])


def _one(x: Tensor, row: list[float]) -> Tensor:
    brightness, contrast, saturation, hue, order, grey, sigma, solarize = row
    steps = (
        lambda x: (brightness * x).clamp(0, 255),
        lambda x: (contrast * x + (1 - contrast) * _grey(x).mean()).clamp(0, 255),
        lambda x: (saturation * x + (1 - saturation) * _grey(x)).clamp(0, 255),
        lambda x: _turn(x, hue),
    )
    for step in ORDERS[int(order)] if order >= 0 else ():
        x = steps[step](x)
    if grey:
        x = _grey(x).expand(3, -1, -1)
    if sigma:
        x = _blur(_blur(x, sigma).mT, sigma).mT
    if solarize:
        x = torch.where(x >= SOLARIZE_FROM, 255 - x, x)
    return x.round().to(torch.uint8)  # halves to even


def _grey(x: Tensor) -> Tensor:
    return sum(weight * channel for weight, channel in zip(GREY_WEIGHTS, x, strict=True))


def _turn(x: Tensor, turns: float) -> Tensor:
    """The hue of HSV's hexcone turned; value and saturation stay."""
    red, green, blue = x
    top, low = x.amax(0), x.amin(0)
    span = (top - low).where(top != low, 1.0)
    third = torch.where(top == green, 2 + (blue - red) / span, 4 + (red - green) / span)
    sixths = torch.where(top == red, (green - blue) / span, third)
    sixths = (sixths + 6 * turns) % 6
    sector, part = sixths.floor() % 6, sixths % 1  # the remainder of a tiny negative number is rounded to 6
    rising, falling = low + (top - low) * part, top - (top - low) * part
    table = (
        (top, rising, low),
        (falling, top, low),
        (low, top, rising),
        (low, falling, top),
        (rising, low, top),
        (top, low, falling),
    )
    turned = torch.zeros_like(x)
    for number, channels in enumerate(table):
        turned = torch.where(sector == number, torch.stack(channels), turned)
    return turned


def _blur(x: Tensor, sigma: float) -> Tensor:
    """Along the last dimension, by a Gaussian of 2 radius + 1 taps; beyond its ends the line is reflected."""
    reach, length = radius(sigma), x.shape[-1]
    taps = torch.exp(-(torch.arange(-reach, reach + 1).double() ** 2) / (2 * sigma**2))
    places = torch.arange(length)[:, None] + torch.arange(-reach, reach + 1)
    period = max(1, 2 * (length - 1))
    places = places.abs() % period
    return x[..., torch.minimum(places, period - places).clamp(max=length - 1)] @ (taps / taps.sum())
