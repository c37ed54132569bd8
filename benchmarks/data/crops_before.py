"""Decoding, crops and photometric list as they were in version 0.1.0 (025e7de), to be compared with.

The region is copied, mirrored if need be, before it is resized; each photometric operation is torchvision's for uint8.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import functional as tv

from silc.data.images import jpeg
from silc.data.views.crops import ViewPlan
from silc.data.views.photometric import ORDERS


def decode(data: bytes) -> Tensor:
    """A JPEG's pixels, uint8 [H, W, 3]."""
    jpeg.read_header(data)  # as it was looked at, for limits
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return decode_jpeg(encoded, mode=ImageReadMode.RGB).permute(1, 2, 0)


def cut(image: Tensor, plan: ViewPlan, large: Tensor, small: Tensor) -> None:
    """Fill the views of an image uint8 [H, W, 3]: large [n_global, 3, R, R] and small [n_local, 3, r, r], uint8."""
    image = image.contiguous()
    for out, (top, left, height, width), flip in zip([*large, *small], plan.boxes.tolist(), plan.flips, strict=True):
        region = image[top : top + height, left : left + width]
        region = region.flip(1) if flip else region.contiguous()
        out.copy_(F.interpolate(region.permute(2, 0, 1)[None], out.shape[1:], mode="bicubic", antialias=True)[0])
    if plan.photometric is not None:
        distort_([*large, *small], plan.photometric.tolist())


def distort_(views: list[Tensor], rows: list[list[float]]) -> None:
    """Distort views uint8 [3, R, R] in place, by the numbers of silc.data.views.photometric."""
    for view, row in zip(views, rows, strict=True):
        view.copy_(distorted(view, row, solarize_from=128))


def distorted(view: Tensor, row: list[float], solarize_from: float) -> Tensor:
    """One view by torchvision's operations, in its own dtype; floats lie in 0 to 1."""
    brightness, contrast, saturation, hue, order, grey, sigma, solarize = row
    if order >= 0:
        steps = (
            lambda x: tv.adjust_brightness(x, brightness),
            lambda x: tv.adjust_contrast(x, contrast),
            lambda x: tv.adjust_saturation(x, saturation),
            lambda x: tv.adjust_hue(x, hue),
        )
        for step in ORDERS[int(order)]:
            view = steps[step](view)
    if grey:
        view = tv.rgb_to_grayscale(view, num_output_channels=3)
    if sigma:
        view = tv.gaussian_blur(view, kernel_size=2 * max(1, round(3 * sigma)) + 1, sigma=sigma)
    return tv.solarize(view, solarize_from) if solarize else view
