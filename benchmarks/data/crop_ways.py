"""Ways from JPEGs to ten views: ours, ours before, torchvision's, Pillow's and lightly's.

Each takes all pictures of a round and keeps no result. None normalises, which training does on the device. Each draws
its own boxes, from the same ranges. open_clip's way is Pillow with torchvision's first transforms.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from lightly.transforms import DINOTransform
from PIL import Image
from torch import Tensor
from torchvision import transforms as v1
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from benchmarks.data import crops_before
from silc.config import ViewsConfig
from silc.data.images.decode import decode_image
from silc.data.randomness import Purpose, uniform_rows
from silc.data.views.crops import MultiCrop, ViewPlan
from silc.data.views.distort import distort_

VIEWS = ViewsConfig()  # 2 x 256 + 8 x 96
LISTED = replace(VIEWS, photometric=True)
BICUBIC = v1.InterpolationMode.BICUBIC
LIMIT = 10**8  # pixels
NO_LIST = {"cj_prob": 0.0, "random_gray_scale": 0.0, "gaussian_blur": (0.0, 0.0, 0.0), "solarization_prob": 0.0}

Resize = Callable[[Tensor, tuple[int, int, int, int], int], Tensor]  # pixels [H, W, 3], box, size -> [3, size, size]


@dataclass(frozen=True)
class Way:
    """kind: what is done; ways of one kind are compared. run: all pictures. resize: how it cuts a box, for quality."""

    provider: str
    kind: str
    run: Callable[[Sequence[bytes]], object]
    resize: Resize | None = None


def ways(pictures: Sequence[bytes]) -> list[Way]:
    """All of them; `silc` is the first of its kind. The views of pictures are cut here for what begins with views."""
    made = Ours(VIEWS).views(pictures)
    pillows = [[_pillow(view) for view in [*large, *small]] for large, small in zip(*made, strict=True)]
    return [
        Way("silc", "crops", Ours(VIEWS).views, ours),
        Way("silc 0.1.0", "crops", Before(VIEWS).views, before),
        Way("torchvision v2 uint8", "crops", TorchVision(torch.uint8).views, torchvision_uint8),
        Way("torchvision v2 float", "crops", TorchVision(torch.float32).views, torchvision_float),
        Way("Pillow, torchvision v1", "crops", pillow_views, pillow),
        Way("lightly", "crops", lightly(**NO_LIST), pillow),
        Way("silc", "crops and list", Ours(LISTED).views, ours),
        Way("silc 0.1.0", "crops and list", Before(LISTED).views, before),
        Way("lightly", "crops and list", lightly(), pillow),
        Way("silc", "list alone", lambda _: Ours(LISTED).distort(*made)),
        Way("silc 0.1.0", "list alone", lambda _: Before(LISTED).distort(*made)),
        Way("lightly", "list alone", lambda _: lightly_list(pillows)),
        Way("silc", "decoding", each(lambda data: decode_image(data, LIMIT))),
        Way("silc 0.1.0", "decoding", each(crops_before.decode)),
        Way("torchvision", "decoding", each(torchvision_decode)),
        Way("simplejpeg", "decoding", each(simplejpeg.decode_jpeg)),
        Way("Pillow", "decoding", each(_opened)),
    ]


def each(decode: Callable[[bytes], object]) -> Callable[[Sequence[bytes]], None]:
    """Decode all, one after the other, and keep none."""

    def run(pictures: Sequence[bytes]) -> None:
        for data in pictures:
            decode(data)

    return run


def torchvision_decode(data: bytes) -> Tensor:
    """uint8 [3, H, W]; torchvision reads tensors that may be written."""
    return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)


class Ours:
    """The stream's own way, one batch."""

    def __init__(self, views: ViewsConfig) -> None:
        self._views = views
        self._crops = MultiCrop(views, 0)

    def rows(self, n: int) -> list[list[float]]:
        return uniform_rows(0, Purpose.CROPS, 0, n, self._crops.width).tolist()

    def plan(self, image: Tensor, row: Sequence[float]) -> ViewPlan:
        return self._crops.plan(image.shape[0], image.shape[1], row)

    def empty(self, n: int) -> tuple[Tensor, Tensor]:
        views = self._views
        large = torch.empty(n, views.n_global, 3, views.global_size, views.global_size, dtype=torch.uint8)
        return large, torch.empty(n, views.n_local, 3, views.local_size, views.local_size, dtype=torch.uint8)

    def drawn(self, n: int) -> list[np.ndarray]:
        """The photometric rows of n images."""
        plans = [self._crops.plan(1, 1, row) for row in self.rows(n)]
        return [plan.photometric for plan in plans if plan.photometric is not None]

    def views(self, pictures: Sequence[bytes]) -> tuple[Tensor, Tensor]:
        large, small = self.empty(len(pictures))
        for i, (data, row) in enumerate(zip(pictures, self.rows(len(pictures)), strict=True)):
            self._crops(decode_image(data, LIMIT), row, large[i], small[i])
        return large, small

    def distort(self, large: Tensor, small: Tensor) -> tuple[Tensor, Tensor]:
        """The photometric list alone, on copies."""
        large, small = large.clone(), small.clone()
        for i, rows in enumerate(self.drawn(len(large))):
            distort_(large[i], rows[: VIEWS.n_global])
            distort_(small[i], rows[VIEWS.n_global :])
        return large, small


class Before(Ours):
    """The same plans, done as in version 0.1.0."""

    def views(self, pictures: Sequence[bytes]) -> tuple[Tensor, Tensor]:
        large, small = self.empty(len(pictures))
        for i, (data, row) in enumerate(zip(pictures, self.rows(len(pictures)), strict=True)):
            image = crops_before.decode(data)
            crops_before.cut(image, self.plan(image, row), large[i], small[i])
        return large, small

    def distort(self, large: Tensor, small: Tensor) -> tuple[Tensor, Tensor]:
        large, small = large.clone(), small.clone()
        for i, rows in enumerate(self.drawn(len(large))):
            crops_before.distort_([*large[i], *small[i]], rows.tolist())
        return large, small


class TorchVision:
    """decode_jpeg and transforms.v2 on tensors of a dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._convert = v2.ToDtype(dtype, scale=True)
        self._transforms = _per_view(
            lambda size, area: v2.Compose(
                [
                    v2.RandomResizedCrop(size, scale=area, interpolation=BICUBIC, antialias=True),
                    v2.RandomHorizontalFlip(VIEWS.flip),
                ]
            )
        )

    def views(self, pictures: Sequence[bytes]) -> None:
        for data in pictures:
            image = self._convert(torchvision_decode(data))
            for transform in self._transforms:
                transform(image)


def pillow_views(pictures: Sequence[bytes]) -> None:
    """Pillow's images and torchvision's first transforms, to uint8 tensors."""
    transforms = _per_view(
        lambda size, area: v1.Compose(
            [
                v1.RandomResizedCrop(size, scale=area, interpolation=BICUBIC),
                v1.RandomHorizontalFlip(VIEWS.flip),
                v1.PILToTensor(),
            ]
        )
    )
    for data in pictures:
        image = _opened(data)
        for transform in transforms:
            transform(image)


def lightly(**options: Any) -> Callable[[Sequence[bytes]], None]:
    """lightly's DINOTransform at our sizes; its defaults are DINO's list, with the strengths of ours."""
    transform = _dino(**options)

    def run(pictures: Sequence[bytes]) -> None:
        for data in pictures:
            transform(_opened(data))

    return run


def lightly_list(pictures: Sequence[Sequence[Image.Image]]) -> None:
    """The photometric part of DINOTransform, on views that are cut."""
    steps = [
        v1.Compose([step for step in view.transform.transforms if not isinstance(step, GEOMETRY)])
        for view in _dino().transforms
    ]
    for views in pictures:
        for view, step in zip(views, steps, strict=True):
            step(view)


GEOMETRY = (v1.RandomResizedCrop, v1.RandomHorizontalFlip, v1.RandomVerticalFlip, v1.ToTensor)


def _dino(**options: Any) -> DINOTransform:
    return DINOTransform(
        global_crop_size=VIEWS.global_size,
        global_crop_scale=VIEWS.global_area,
        local_crop_size=VIEWS.local_size,
        local_crop_scale=VIEWS.local_area,
        n_local_views=VIEWS.n_local,
        hf_prob=VIEWS.flip,
        normalize=None,
        **options,
    )


def _per_view(build: Callable[[int, tuple[float, float]], Any]) -> list[Any]:
    large, small = build(VIEWS.global_size, VIEWS.global_area), build(VIEWS.local_size, VIEWS.local_area)
    return [large] * VIEWS.n_global + [small] * VIEWS.n_local


def _opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def _pillow(view: Tensor) -> Image.Image:
    return Image.fromarray(view.permute(1, 2, 0).numpy())


def ours(pixels: Tensor, box: tuple[int, int, int, int], size: int) -> Tensor:
    return _by_plan(lambda plan, large, small: MultiCrop(VIEWS, 0).cut(pixels, plan, large, small), box, size)


def before(pixels: Tensor, box: tuple[int, int, int, int], size: int) -> Tensor:
    return _by_plan(lambda plan, large, small: crops_before.cut(pixels, plan, large, small), box, size)


def _by_plan(cut: Callable[[ViewPlan, Tensor, Tensor], None], box: tuple[int, int, int, int], size: int) -> Tensor:
    out = torch.empty(1, 3, size, size, dtype=torch.uint8)
    cut(ViewPlan(np.array([box]), np.array([False]), None), out, out[:0])
    return out[0]


def torchvision_uint8(pixels: Tensor, box: tuple[int, int, int, int], size: int) -> Tensor:
    return tv.resized_crop(pixels.permute(2, 0, 1), *box, [size, size], BICUBIC, antialias=True)


def torchvision_float(pixels: Tensor, box: tuple[int, int, int, int], size: int) -> Tensor:
    scaled = tv.to_dtype(pixels.permute(2, 0, 1), torch.float32, scale=True)
    return 255 * tv.resized_crop(scaled, *box, [size, size], BICUBIC, antialias=True)


def pillow(pixels: Tensor, box: tuple[int, int, int, int], size: int) -> Tensor:
    cut = v1.functional.resized_crop(Image.fromarray(pixels.numpy()), *box, [size, size], BICUBIC)
    return v1.functional.pil_to_tensor(cut)


def exact(pixels: Tensor, box: tuple[int, int, int, int], size: int) -> Tensor:
    """Bicubic with antialiasing in fp64, nothing rounded."""
    top, left, height, width = box
    region = pixels[top : top + height, left : left + width].permute(2, 0, 1)[None].double()
    return F.interpolate(region, (size, size), mode="bicubic", antialias=True)[0].clamp(0, 255)
