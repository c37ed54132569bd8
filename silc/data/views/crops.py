"""Views of an image: the original, global crops and local crops; uint8 in, uint8 out.

Crops are drawn as Inception's (Szegedy et al. 2015; torchvision's RandomResizedCrop): an area, uniform in a range, as a
fraction of the image's, and an aspect ratio, log-uniform in 3/4 .. 4/3, are drawn until the box fits. SILC (arXiv
2310.13355) takes global crops of 0.4 to 1.0 of the area and local ones of 0.05 to 0.4, as DINO does, and flips some.
All randomness is given as a row of uniform numbers, so that a sample's crops are a function of its place in the stream.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from silc.config import ViewsConfig
from silc.data.views import photometric
from silc.data.views.distort import SMALLEST, distort_

RATIO = (3 / 4, 4 / 3)
TRIES = 10
_GEOMETRY = 2 * TRIES + 3  # (area, ratio) of each try; top, left, flip
WIDTH = _GEOMETRY + photometric.WIDTH  # uniform numbers that a crop needs

Box = tuple[int, int, int, int]  # top, left, height, width


def crop_box(u: Sequence[float], height: int, width: int, area: tuple[float, float]) -> Box:
    """A random box inside an image.

    Args:
        u: at least 2 * TRIES + 2 uniform numbers.
        height, width: of the image, in pixels.
        area: range of the box's area as a fraction of the image's.

    Returns:
        top, left, height and width in pixels. Where no try fits (a very long or tall image), the central box of the
        nearest allowed ratio.
    """
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    for t in range(0, 2 * TRIES, 2):
        pixels = height * width * (area[0] + u[t] * (area[1] - area[0]))
        ratio = math.exp(low + u[t + 1] * (high - low))
        w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = u[2 * TRIES], u[2 * TRIES + 1]
            return int(top * (height - h + 1)), int(left * (width - w + 1)), h, w
    h = min(height, max(1, round(width / RATIO[0])))
    w = min(width, max(1, round(height * RATIO[1])))
    return (height - h) // 2, (width - w) // 2, h, w


def resize_into(out: Tensor, image: Tensor, *, mirrored: bool = False) -> None:
    """Write an image, resized (bicubic, antialiased), into a view.

    Args:
        out: uint8 [3, h, w]; in the processor's memory if mirrored.
        image: uint8 [H, W, 3], fastest where a row's pixels lie side by side; a region of an image may be given.
        mirrored: left to right; the bits are those of the mirrored image resized, as resizing is symmetric.
    """
    # torch's integer kernel is fastest with channels last in memory, which a batch of one shows by its strides.
    resized = F.interpolate(image[None].permute(0, 3, 1, 2), out.shape[1:], mode="bicubic", antialias=True)[0]
    if mirrored:
        out.numpy()[...] = resized.numpy()[..., ::-1]  # torch has no negative strides
    else:
        out.copy_(resized)


@dataclass(frozen=True)
class ViewPlan:
    """What is cut out of one image: the n_global large views, then the n_local small ones; n of them.

    boxes: int64 [n, 4], top, left, height and width in pixels of the image.
    flips: bool [n], mirrored left to right.
    photometric: float32 [n, photometric.PARAMETERS], or None for no distortions; see :func:`photometric.parameters`.
    """

    boxes: np.ndarray
    flips: np.ndarray
    photometric: np.ndarray | None


class MultiCrop:
    """The views of one image: what they are (plan), and written into the tensors of a batch (cut).

    Args:
        views: number, sizes and ranges of the crops.
        n_original: 1 to put the whole image, resized without other changes, before the global crops; or 0.

    Raises:
        ValueError: views too small for the photometric list.
    """

    def __init__(self, views: ViewsConfig, n_original: int) -> None:
        _check_sizes(views)
        self._views = views
        self._n_original = n_original
        n_global, n_local = views.n_global, views.n_local
        self._areas = [views.global_area] * n_global + [views.local_area] * n_local
        self._recipes = [photometric.GLOBAL[min(i, 1)] for i in range(n_global)] + [photometric.LOCAL] * n_local
        self.width = (n_global + n_local) * WIDTH  # uniform numbers that an image needs

    def __call__(self, image: Tensor, row: Sequence[float], large: Tensor, small: Tensor | None) -> None:
        """Fill a sample's views: :meth:`plan`, then :meth:`cut`.

        Args:
            image: uint8 [H, W, 3].
            row: `width` uniform numbers; those of the global crops come first, so that they do not change with `small`.
            large: uint8 [n_original + n_global, 3, global_size, global_size].
            small: uint8 [n_local, 3, local_size, local_size], or None for no local crops.
        """
        self.cut(image, self.plan(image.shape[0], image.shape[1], row), large, small)

    def plan(self, height: int, width: int, row: Sequence[float]) -> ViewPlan:
        """The views of an image of a size, in pixels, drawn from `width` uniform numbers, in microseconds."""
        rows = [row[at : at + WIDTH] for at in range(0, self.width, WIDTH)]
        boxes = [crop_box(u, height, width, area) for u, area in zip(rows, self._areas, strict=True)]
        distortions = None
        if self._views.photometric:
            drawn = [photometric.parameters(u[_GEOMETRY:], r) for u, r in zip(rows, self._recipes, strict=True)]
            distortions = np.array(drawn, dtype=np.float32).reshape(-1, photometric.PARAMETERS)
        return ViewPlan(
            np.array(boxes, dtype=np.int64).reshape(-1, 4),
            np.array([u[2 * TRIES + 2] < self._views.flip for u in rows], dtype=bool),
            distortions,
        )

    def cut(self, image: Tensor, plan: ViewPlan, large: Tensor, small: Tensor | None) -> None:
        """Fill the views as planned; shapes are those of a call. Local crops are left out where small is None."""
        image = image.contiguous()  # once for all views; as a rule it is
        if self._n_original:
            resize_into(large[0], image)
        outs = [*large[self._n_original :], *(() if small is None else small)]
        for out, (top, left, height, width), flip in zip(outs, plan.boxes.tolist(), plan.flips.tolist(), strict=False):
            resize_into(out, image[top : top + height, left : left + width], mirrored=flip)
        if plan.photometric is not None:
            distort_(large[self._n_original :], plan.photometric[: self._views.n_global])
            if small is not None:
                distort_(small, plan.photometric[self._views.n_global :])


def _check_sizes(views: ViewsConfig) -> None:
    for name, size, n in (
        ("global_size", views.global_size, views.n_global),
        ("local_size", views.local_size, views.n_local),
    ):
        if views.photometric and n and size < SMALLEST:
            raise ValueError(
                f"views.{name}={size} is too small for the blur of views.photometric: set at least {SMALLEST}, or "
                "views.photometric=false"
            )
