"""Views that the host leaves to the device: what it sends instead, and how they are finished there.

`views.device` says where the photometric list is computed, `views.crops_on` where crops are cut. A batch that leaves
something to the device carries it as its `work`; :meth:`silc.data.batch.Batch.to` finishes the views on the stream on
which it copies, before the batch is split. Boxes, flips and parameters are those of the host's own crops.

Decoded images take memory: in a worker and between processes, those of a whole batch, each of up to three bytes for
every pixel that `data.max_image_pixels` allows; on the device IMAGES_AT_ONCE, as they are cut some at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from silc.config import ViewsConfig
from silc.data.views.crops import ViewPlan
from silc_kernels import crop_resize, photometric

IMAGES_AT_ONCE = 1 << 28  # bytes of decoded images on the device; a larger image is there alone
_UNCHANGED = (1.0, 1.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0)  # parameters of a view that is not distorted


class Left(NamedTuple):
    """What is left to the device: cutting the crops, the photometric list."""

    crops: bool
    photometric: bool


ALL_HERE = Left(crops=False, photometric=False)


def left_to(views: ViewsConfig, device: torch.device) -> Left:
    """What a host leaves to this device."""
    crops = views.crops_on == "device"
    where = views.device if views.device != "auto" else ("device" if crops or device.type != "cpu" else "host")
    return Left(crops, views.photometric and where == "device")


@dataclass(frozen=True)
class Images:
    """Decoded images, one behind the other.

    pixels: uint8 [bytes], each image [H, W, 3].
    sizes: int64 [b, 2], height and width of each, on the CPU.
    boxes: int64 [b, v, 4], top, left, height and width of each view, on the CPU.
    flips: bool [b, v], on the CPU.
    """

    pixels: Tensor
    sizes: Tensor
    boxes: Tensor
    flips: Tensor


@dataclass(frozen=True)
class DeviceWork:
    """What is left to do to the v = n_original + n_global + n_local views of each of b images.

    images: to cut them of; None: they are cut.
    photometric: float32 [b, v, 8], rows of :func:`silc_kernels.photometric`; None: nothing is distorted.
    """

    images: Images | None
    photometric: Tensor | None

    def pin_memory(self) -> DeviceWork:
        """The images in page-locked memory."""
        if self.images is None:
            return self
        return replace(self, images=replace(self.images, pixels=self.images.pixels.pin_memory()))


def leave(left: Left, plans: Sequence[ViewPlan], images: list[Tensor], n_original: int) -> DeviceWork:
    """The work of a batch.

    Args:
        left: crops or photometric.
        plans: of each image.
        images: uint8 [H, W, 3] each, emptied, so that none is held twice; not read unless crops are left.
        n_original: 1 for a view of the whole image before the others, or 0.
    """
    rows = None
    if left.photometric:
        rows = _with_original([_distortions(plan) for plan in plans], [_UNCHANGED] * len(plans), n_original)
    if not left.crops:
        return DeviceWork(None, rows)
    sizes = torch.tensor([image.shape[:2] for image in images])
    whole = [(0, 0, *image.shape[:2]) for image in images]
    return DeviceWork(
        Images(
            _joined(images),
            sizes,
            _with_original([plan.boxes for plan in plans], whole, n_original),
            _with_original([plan.flips for plan in plans], [False] * len(plans), n_original),
        ),
        rows,
    )


def _joined(images: list[Tensor]) -> Tensor:
    """The images' bytes, uint8 [bytes]. Each image is let go of when it is copied."""
    ends = list(itertools.accumulate(image.numel() for image in images))
    pixels = torch.empty(ends[-1], dtype=torch.uint8)
    for end in reversed(ends):
        image = images.pop()
        pixels[end - image.numel() : end] = image.reshape(-1)
    return pixels


def finished(views: Sequence[Tensor], work: DeviceWork, device: torch.device | str, non_blocking: bool) -> list[Tensor]:
    """The views of a batch, finished, on a device.

    Args:
        views: uint8 [b, n, 3, R, R] each, of one size, in the order of the work's v views: as they were cut, or on the
            meta device where they are not.
        work: of the batch.
        device: to finish them on.
        non_blocking: of the copies.
    """
    ends = list(itertools.accumulate(group.shape[1] for group in views))
    which = [slice(end - group.shape[1], end) for end, group in zip(ends, views, strict=True)]
    if work.images is None:
        found = [group.to(device, non_blocking=non_blocking) for group in views]
    else:
        found = [torch.empty(group.shape, dtype=torch.uint8, device=device) for group in views]
        _cut(found, which, work.images, device, non_blocking)
    if work.photometric is None:
        return found
    return [
        photometric(
            out.flatten(0, 1), work.photometric[:, part].flatten(0, 1).contiguous(), inplace=out is not given
        ).view(out.shape)
        for out, given, part in zip(found, views, which, strict=True)
    ]


def _cut(
    views: Sequence[Tensor], which: Sequence[slice], images: Images, device: torch.device | str, non_blocking: bool
) -> None:
    """Fill the views, each with those of the images' views that it holds."""
    for start, end, pixels, offsets in _parts(images):
        there = pixels.to(device, non_blocking=non_blocking)
        for out, part in zip(views, which, strict=True):
            if out.shape[1]:
                crop_resize(
                    there,
                    offsets,
                    images.sizes[start:end],
                    torch.arange(end - start).repeat_interleave(out.shape[1]),
                    images.boxes[start:end, part].flatten(0, 1),
                    images.flips[start:end, part].flatten(),
                    out.shape[-1],
                    out=out[start:end].flatten(0, 1),
                )


def _parts(images: Images) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """As many images at a time as the device may hold: the first, the end, their pixels, and offsets in these."""
    lengths = 3 * images.sizes.prod(1)
    offsets = lengths.cumsum(0) - lengths
    ends = (offsets + lengths).tolist()
    start, begin = 0, 0
    while start < len(ends):
        end = start + 1
        while end < len(ends) and ends[end] - begin <= IMAGES_AT_ONCE:
            end += 1
        yield start, end, images.pixels[begin : ends[end - 1]], offsets[start:end] - begin
        start, begin = end, ends[end - 1]


def _distortions(plan: ViewPlan) -> np.ndarray:
    assert plan.photometric is not None
    return plan.photometric


def _with_original(values: Sequence[np.ndarray], original: Sequence[object], n_original: int) -> Tensor:
    """[b, n, ...] of each image's views -> [b, n_original + n, ...], its original view first."""
    stacked = np.stack(values)
    first = np.array(original, dtype=stacked.dtype)[:, None][:, :n_original]
    return torch.from_numpy(np.concatenate([first, stacked], axis=1))
