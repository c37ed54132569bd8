"""What others do to views, by torchvision: DINO's list a view at a time or batched under masks; crops."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import functional as tv

ORDER_OF = list(itertools.permutations(range(4)))


def by_torchvision(views: Tensor, rows: Tensor) -> Tensor:
    """Its operations on bytes, each of which rounds, as a training transform calls them."""
    return torch.stack([_one(view, row) for view, row in zip(views, rows.tolist(), strict=True)])


def _one(x: Tensor, row: list[float]) -> Tensor:
    brightness, contrast, saturation, hue, order, grey, sigma, solarize = row
    steps: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda x: tv.adjust_brightness(x, brightness),
        lambda x: tv.adjust_contrast(x, contrast),
        lambda x: tv.adjust_saturation(x, saturation),
        lambda x: tv.adjust_hue(x, hue),
    )
    for step in ORDER_OF[int(order)] if order >= 0 else ():
        x = steps[step](x)
    x = tv.rgb_to_grayscale(x, 3) if grey else x
    x = tv.gaussian_blur(x, 2 * max(1, round(3 * sigma)) + 1, sigma) if sigma else x
    return tv.solarize(x, 128) if solarize else x


def under_masks(views: Tensor, rows: Tensor) -> Tensor:
    """As kornia and other batched augmentations do: each step on the whole batch, kept for the views that have it."""
    rows = rows.to(views.device)
    x = views.float() / 255
    orders = torch.tensor(ORDER_OF, device=views.device)[rows[:, 4].long().clamp(min=0)]
    for turn in range(4):
        now = orders[:, turn]
        for step, apply in enumerate(BATCHED):
            chosen = ((now == step) & (rows[:, 4] >= 0)).view(-1, 1, 1, 1)
            x = torch.where(chosen, apply(x, rows[:, step].view(-1, 1, 1, 1)), x)
    x = torch.where(rows[:, 5].view(-1, 1, 1, 1) > 0, tv.rgb_to_grayscale(x, 3), x)
    x = torch.where(rows[:, 6].view(-1, 1, 1, 1) > 0, _blurred(x, rows[:, 6]), x)
    solarized = torch.where(x >= 128 / 255, 1 - x, x)
    x = torch.where(rows[:, 7].view(-1, 1, 1, 1) > 0, solarized, x)
    return (255 * x).round().to(torch.uint8)


def _blended(x: Tensor, other: Tensor | float, factor: Tensor) -> Tensor:
    return (x * factor + other * (1 - factor)).clamp(0, 1)


def _turned(x: Tensor, turns: Tensor) -> Tensor:
    """torchvision's hue, with a shift for each view: through HSV and back."""
    from torchvision.transforms.v2.functional import _color

    hue, saturation, value = _color._rgb_to_hsv(x).unbind(1)
    return _color._hsv_to_rgb(torch.stack([(hue + turns[:, 0]).remainder(1), saturation, value], 1))


def _blurred(x: Tensor, sigma: Tensor) -> Tensor:
    """A depthwise convolution in each direction, of 13 taps, some of them zero."""
    away = torch.arange(-6, 7, device=x.device)
    taps = torch.exp(-(away**2) / (2 * sigma.clamp(min=0.1)[:, None] ** 2))
    taps = taps * (away.abs() <= (3 * sigma[:, None]).round().clamp(min=1))
    taps = (taps / taps.sum(1, keepdim=True)).repeat_interleave(3, 0)[:, None]
    flat = functional.pad(x, (6, 6, 6, 6), mode="reflect").flatten(0, 1)[None]
    across = functional.conv2d(flat, taps[:, :, None], groups=len(taps))
    return functional.conv2d(across, taps[..., None], groups=len(taps)).view(x.shape)


BATCHED: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    lambda x, factor: _blended(x, 0.0, factor),
    lambda x, factor: _blended(x, tv.rgb_to_grayscale(x).mean((1, 2, 3), keepdim=True), factor),
    lambda x, factor: _blended(x, tv.rgb_to_grayscale(x), factor),
    _turned,
)


def cut(images: Sequence[Tensor], boxes: Tensor, flips: Tensor, side: int) -> Tensor:
    """Crops of images [3, H, W]: boxes [b, v, 4] and flips [b, v] on the CPU; [b v, 3, side, side]."""
    views = []
    for image, rows, mirrored in zip(images, boxes.tolist(), flips.tolist(), strict=True):
        for box, flip in zip(rows, mirrored, strict=True):
            view = tv.resized_crop(image, *box, [side, side], tv.InterpolationMode.BICUBIC, antialias=True)
            views.append(view.flip(2) if flip else view)
    return torch.stack(views)
