"""Crops in plain torch, one at a time: by its CPU kernel on a CPU; elsewhere, where it has none for bytes, by matrices
of the same whole numbers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .weights import weights

STRIP = 1 << 22  # numbers of a region at a time, in float64


def cut(out: Tensor, pixels: Tensor, regions: Tensor) -> Tensor:
    """Fill out [n, 3, R, R] from pixels and regions int64 [n, 5] (`regions.REGION`), on the CPU."""
    for view, (offset, line, height, width, flip) in zip(out, regions.tolist(), strict=True):
        region = pixels.as_strided((height, width, 3), (line, 3, 1), pixels.storage_offset() + offset)
        region = region.flip(1) if flip else region.contiguous()
        view.copy_(_resized(region.permute(2, 0, 1), out.shape[-1]))
    return out


def _resized(region: Tensor, size: int) -> Tensor:
    """uint8 [3, h, w] -> uint8 [3, size, size]."""
    if region.device.type == "cpu":
        return F.interpolate(region[None], (size, size), mode="bicubic", antialias=True)[0]
    return by_matrices(region, size)


def by_matrices(region: Tensor, size: int) -> Tensor:
    """The same by products in float64, which hold such whole numbers exactly."""
    rows = max(1, STRIP // (3 * region.shape[2]))
    across = torch.cat([_along(strip, size) for strip in region.split(rows, dim=1)], dim=1)
    return _along(across.mT, size).mT


def _along(x: Tensor, size: int) -> Tensor:
    starts, taps, precision = weights(x.shape[-1], size)
    places = (starts[:, None] + torch.arange(taps.shape[1])).clamp(max=x.shape[-1] - 1)  # weights there are 0
    matrix = torch.zeros(size, x.shape[-1], dtype=torch.float64).scatter_add_(1, places, taps.double())
    sums = (x.double() @ matrix.to(x.device).t()).long()
    return ((sums + (1 << precision >> 1)) >> precision).clamp_(0, 255).to(torch.uint8)
