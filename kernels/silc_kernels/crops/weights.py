"""The weights of torch's bicubic resize of bytes with antialiasing: whole numbers, chosen as its CPU kernel does."""

import torch
from torch import Tensor

CUBIC = -0.5  # Keys' parameter, as Pillow's
REACH = 2  # of the cubic, in pixels of the longer grid
MOST_PRECISION = 22  # bits after the point
WEIGHT_BITS = 15  # of the largest weight


def most_taps(length: int, size: int) -> int:
    """How many pixels of a line of `length` a pixel of one of `size` takes at most."""
    return 2 * -(-REACH * max(length, size) // size) + 1


def weights(length: int, size: int) -> tuple[Tensor, Tensor, int]:
    """How a line of `length` pixels becomes one of `size`.

    Returns:
        starts int64 [size], the first pixel that each takes; weights int64 [size, most_taps], zeros behind the last;
        and their precision, the bits after their point.
    """
    scale = length / size
    support, sharpness = REACH * max(scale, 1.0), min(1 / scale, 1.0)
    centers = scale * (torch.arange(size, dtype=torch.float64) + 0.5)
    starts = (centers - support + 0.5).long().clamp(min=0)
    ends = (centers + support + 0.5).long().clamp(max=length)
    places = starts[:, None] + torch.arange(most_taps(length, size))
    real = cubic((places - centers[:, None] + 0.5) * sharpness)
    real = torch.where(places < ends[:, None], real, 0.0)
    real /= real.sum(1, keepdim=True)
    largest, precision = float(real.max()), 0
    while precision < MOST_PRECISION and int(0.5 + largest * 2 ** (precision + 1)) < 1 << WEIGHT_BITS:
        precision += 1
    scaled = real * 2**precision
    return starts, (scaled + torch.where(scaled < 0, -0.5, 0.5)).long(), precision  # halves away from zero


def cubic(x: Tensor) -> Tensor:
    """Keys' piecewise cubic (1981)."""
    x = x.abs()
    near = ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * CUBIC
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
