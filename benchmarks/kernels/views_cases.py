"""Cases of the views: the photometric list, crops of decoded images, and both from host memory to finished views.

Two global and eight local views an image. What is timed of the last: copies and device alone. What the host does
before, decoding in both ways and cutting in one, is in data_bench.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import functional as tv

from benchmarks.common.measure import device
from benchmarks.kernels.cases import Case, Provider
from silc.config import ViewsConfig
from silc.data.batch import Batch
from silc.data.views.crops import MultiCrop, ViewPlan
from silc.data.views.device import ALL_HERE, Left, leave
from silc_kernels import crop_resize, photometric

# images, height and width of each, global side, local side; repeats
SIZES = {
    "tiny": [(2, 40, 56, 16, 8, 1)],
    "cpu": [(8, 480, 640, 256, 96, 5)],
    "cuda": [(32, 480, 640, 256, 96, 20), (256, 480, 640, 256, 96, 20)],
}
GATE = (4, 60, 80, 32, 16)
# Relative, by norm: peers round each of their steps to bytes, or other last digits of a resize.
BOUND = 2e-2
ORDER_OF = list(itertools.permutations(range(4)))


class Work(NamedTuple):
    """Images on the host, the plan of each, and the plans as a batch leaves them to a device."""

    images: list[Tensor]
    plans: list[ViewPlan]
    views: ViewsConfig

    def left(self, *, crops: bool, distorted: bool) -> Batch:
        """The batch as workers hand it over, in page-locked memory where there is a GPU."""
        left = Left(crops, distorted)
        work = leave(left, self.plans, list(self.images), 0) if left != ALL_HERE else None
        count, where = len(self.images), "meta" if crops else "cpu"
        large, small = (
            torch.empty(count, number, 3, side, side, dtype=torch.uint8, device=where)
            for number, side in (
                (self.views.n_global, self.views.global_size),
                (self.views.n_local, self.views.local_size),
            )
        )
        if not crops:
            cutter = MultiCrop(self.views, 0)
            for i, (image, plan) in enumerate(zip(self.images, self.plans, strict=True)):
                cutter.cut(image, ViewPlan(plan.boxes, plan.flips, None), large[i], small[i])
        batch = Batch(large, small, torch.zeros(count, 1, dtype=torch.int64), [""] * count, 0, 0, [], work)
        return batch.pin_memory() if device().type == "cuda" else batch


def work(images: int, height: int, width: int, large: int, small: int) -> Work:
    views = ViewsConfig(global_size=large, local_size=small, photometric=True)
    cutter, source = MultiCrop(views, 0), np.random.default_rng(1)
    pixels = [torch.randint(0, 256, (height, width, 3), dtype=torch.uint8) for _ in range(images)]
    return Work(pixels, [cutter.plan(height, width, source.random(cutter.width).tolist()) for _ in pixels], views)


def views_cases(size: str) -> Iterator[Case]:
    for *shape, repeats in [(*GATE, 1), *SIZES[size]]:
        images, height, width, large, small = shape
        finished = images * 3 * (2 * large**2 + 8 * small**2)
        decoded = images * 3 * height * width
        name = f"{images} x (2 x {large}^2 + 8 x {small}^2)"
        gated = tuple(shape) == GATE
        for op, providers, moved, bound in (
            ("photometric", distorted, 2 * finished, BOUND),
            ("crop_resize", cropped, decoded + finished, BOUND),
            ("views from host memory", copied, decoded + finished, 0.0),
        ):
            of = "" if op == "photometric" else f" of {height} x {width}"
            yield Case(
                op,
                name + of,
                partial(_made, providers, shape),
                moved,
                0.0,
                repeats,
                bound=bound if gated or not bound else None,
                timed="forward, bytes",
            )


def _made(providers: Callable[[Work], dict[str, Provider]], shape: Sequence[int]) -> dict[str, Provider]:
    return providers(work(*shape))


def distorted(given: Work) -> dict[str, Provider]:
    """DINO's list on views that lie on the device."""
    batch = given.left(crops=False, distorted=True)
    assert batch.work is not None
    assert batch.work.photometric is not None
    rows = batch.work.photometric.split([given.views.n_global, given.views.n_local], dim=1)
    groups = [
        (group.to(device()).flatten(0, 1), part.flatten(0, 1).contiguous())
        for group, part in zip((batch.large, batch.small), rows, strict=True)
        if group is not None
    ]

    def each(distort: Callable[[Tensor, Tensor], Tensor]) -> Provider:
        return lambda: [distort(views, parameters) for views, parameters in groups]

    return {
        "silc_kernels": each(photometric),
        "torchvision v2, uint8, a view at a time": each(by_torchvision),
        "batched float32 steps under masks": each(under_masks),
    }


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


def cropped(given: Work) -> dict[str, Provider]:
    """Crops of images that lie on the device."""
    batch = given.left(crops=True, distorted=False)
    assert batch.work is not None
    images = batch.work.images
    assert images is not None
    pixels = images.pixels.to(device())
    lengths = 3 * images.sizes.prod(1)
    offsets, count, n_global = lengths.cumsum(0) - lengths, len(given.images), given.views.n_global
    groups = [
        (side, images.boxes[:, part], images.flips[:, part])
        for side, part in (
            (given.views.global_size, slice(0, n_global)),
            (given.views.local_size, slice(n_global, None)),
        )
    ]

    def ours() -> list[Tensor]:
        return [
            crop_resize(
                pixels,
                offsets,
                images.sizes,
                torch.arange(count).repeat_interleave(boxes.shape[1]),
                boxes.flatten(0, 1),
                flips.flatten(),
                side,
            )
            for side, boxes, flips in groups
        ]

    there = [image.to(device()).permute(2, 0, 1) for image in given.images]

    def torchvision() -> list[Tensor]:
        found = []
        for side, boxes, flips in groups:
            views = []
            for image, rows, mirrored in zip(there, boxes.tolist(), flips.tolist(), strict=True):
                for box, flip in zip(rows, mirrored, strict=True):
                    view = tv.resized_crop(image, *box, [side, side], tv.InterpolationMode.BICUBIC, antialias=True)
                    views.append(view.flip(2) if flip else view)
            found.append(torch.stack(views))
        return found

    return {"silc_kernels": ours, "torchvision v2, a view at a time": torchvision}


def copied(given: Work) -> dict[str, Provider]:
    """Copies and device work of both ways; the views are the same to the last bit."""
    found = {}
    for name, crops in (("silc_kernels, decoded images sent", True), ("silc_kernels, crops sent", False)):
        batch = given.left(crops=crops, distorted=True)

        def solve(batch: Batch = batch) -> list[Tensor]:
            there = batch.to(device(), non_blocking=True)
            return [there.large, *([] if there.small is None else [there.small])]

        found[name] = solve
    return found


def sent_bytes(height: int, width: int, large: int, small: int) -> tuple[int, int]:
    """Bytes of an image over the bus: as a decoded image, and as ten crops; rows of parameters in both."""
    rows = 10 * 8 * 4
    return 3 * height * width + rows, 3 * (2 * large**2 + 8 * small**2) + rows
