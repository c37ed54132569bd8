"""Crops in whole numbers, one at a time: what torch's CPU kernel computes, in a few lines.

To read, and to test against.
"""

import torch
from torch import Tensor

from .weights import weights


def crop_resize(
    pixels: Tensor, offsets: Tensor, sizes: Tensor, index: Tensor, boxes: Tensor, flips: Tensor, size: int
) -> Tensor:
    """See `ops.crop_resize`."""
    views = []
    for image, box, flip in zip(index.tolist(), boxes.tolist(), flips.tolist(), strict=True):
        (height, width), start = sizes[image].tolist(), int(offsets[image])
        top, left, rows, columns = box
        whole = pixels[start : start + 3 * height * width].view(height, width, 3)
        region = whole[top : top + rows, left : left + columns]
        views.append(_resized(region.flip(1) if flip else region, size))
    return torch.stack(views) if views else pixels.new_empty(0, 3, size, size)


def _resized(region: Tensor, size: int) -> Tensor:
    """uint8 [h, w, 3] -> uint8 [3, size, size]: across, to bytes, down, to bytes."""
    across = _along(region.permute(2, 0, 1), size)
    return _along(across.mT, size).mT


def _along(x: Tensor, size: int) -> Tensor:
    """Resize the last dimension of bytes to `size`."""
    starts, taps, precision = weights(x.shape[-1], size)
    places = (starts[:, None] + torch.arange(taps.shape[1])).clamp(max=x.shape[-1] - 1)
    sums = (x[..., places].long() * taps).sum(-1)
    return ((sums + (1 << precision >> 1)) >> precision).clamp(0, 255).to(torch.uint8)
