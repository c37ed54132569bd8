"""Cases of the views: the photometric list, crops of decoded images, and both from host memory to finished views.

Two global and eight local views an image. What is timed of the last: copies and device alone. What the host does
before, decoding in both ways and cutting in one, is in data_bench.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.common.measure import device
from benchmarks.kernels.cases import Case, Provider
from benchmarks.kernels.peers import peer
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
# Views of an image with the areas they cover, and how often DINO blurs and solarizes each.
GLOBALS, LOCALS = 2, 8
AREAS = [(0.4, 1.0)] * GLOBALS + [(0.05, 0.4)] * LOCALS
BLUR, SOLARIZE = [1.0, 0.1] + [0.5] * LOCALS, [0.0, 0.2] + [0.0] * LOCALS
FROM_HOST = ("numpy", "pydantic", "torchvision", "yaml")  # what the trainer's own parts need


class Group(NamedTuple):
    """The views of one size of b images. boxes [b, v, 4], flips [b, v] and rows [b, v, 8] on the CPU."""

    side: int
    boxes: Tensor
    flips: Tensor
    rows: Tensor


def views_cases(size: str) -> Iterator[Case]:
    for *shape, repeats in [(*GATE, 1), *SIZES[size]]:
        images, height, width, large, small = shape
        finished = images * 3 * (GLOBALS * large**2 + LOCALS * small**2)
        decoded = images * 3 * height * width
        name = f"{images} x ({GLOBALS} x {large}^2 + {LOCALS} x {small}^2)"
        gated = tuple(shape) == GATE
        for op, providers, moved, bound in (
            ("photometric", distorted, 2 * finished, BOUND),
            ("crop_resize", cropped, decoded + finished, BOUND),
            ("views from host memory", from_host, decoded + finished, 0.0),
        ):
            missing = [package for package in FROM_HOST if find_spec(package) is None]
            if providers is from_host and missing:
                print(f"  left out: {op} (the trainer needs {', '.join(missing)})")
                continue
            of = "" if op == "photometric" else f" of {height} x {width}"
            yield Case(
                op,
                name + of,
                partial(providers, *shape),
                moved,
                0.0,
                repeats,
                bound=bound if gated or not bound else None,
                timed="forward, bytes",
            )


def drawn(images: int, height: int, width: int, large: int, small: int) -> list[Group]:
    """Boxes as RandomResizedCrop's, rows as DINO's list: what the trainer draws, in a few lines."""
    source, count = torch.Generator().manual_seed(1), GLOBALS + LOCALS

    def uniform(low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(images, count, generator=source)

    low, high = torch.tensor(AREAS).unbind(1)
    area, ratio = height * width * (low + (high - low) * uniform()), torch.exp(uniform(-0.2876, 0.2876))
    tall = (area / ratio).sqrt().round().clamp(1, height)
    wide = (area * ratio).sqrt().round().clamp(1, width)
    top, left = (uniform() * (height - tall + 1)).floor(), (uniform() * (width - wide + 1)).floor()
    boxes = torch.stack([top, left, tall, wide], -1).long()
    factors = [uniform(0.6, 1.4), uniform(0.6, 1.4), uniform(0.8, 1.2), uniform(-0.1, 0.1)]
    order = torch.where(uniform() < 0.8, uniform(0, 24).floor(), -1.0)
    sigma = torch.where(uniform() < torch.tensor(BLUR), uniform(0.1, 2.0), 0.0)
    marks = (uniform() < 0.2).float(), (uniform() < torch.tensor(SOLARIZE)).float()
    rows = torch.stack([*factors, order, marks[0], sigma, marks[1]], -1)
    flips = uniform() < 0.5
    return [
        Group(side, boxes[:, part].contiguous(), flips[:, part], rows[:, part].contiguous())
        for side, part in ((large, slice(0, GLOBALS)), (small, slice(GLOBALS, None)))
    ]


def noise(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, device=device())


def distorted(*shape: int) -> dict[str, Provider]:
    """DINO's list on views that lie on the device."""
    groups = [
        (noise(group.rows[..., 0].numel(), 3, group.side, group.side), group.rows.flatten(0, 1))
        for group in drawn(*shape)
    ]

    def each(distort: Callable[[Tensor, Tensor], Tensor]) -> Provider:
        return lambda: [distort(views, parameters) for views, parameters in groups]

    found = {"silc_kernels": each(photometric)}
    if peer("torchvision") is not None:
        from benchmarks.kernels import views_peers

        found["torchvision v2, uint8, a view at a time"] = each(views_peers.by_torchvision)
        found["batched float32 steps under masks"] = each(views_peers.under_masks)
    return found


def cropped(images: int, height: int, width: int, large: int, small: int) -> dict[str, Provider]:
    """Crops of images that lie on the device."""
    pixels = noise(images, height, width, 3)
    sizes = torch.tensor([(height, width)] * images)
    offsets = torch.arange(images) * 3 * height * width
    groups = drawn(images, height, width, large, small)

    def ours() -> list[Tensor]:
        return [
            crop_resize(
                pixels.flatten(),
                offsets,
                sizes,
                torch.arange(images).repeat_interleave(group.boxes.shape[1]),
                group.boxes.flatten(0, 1),
                group.flips.flatten(),
                group.side,
            )
            for group in groups
        ]

    found: dict[str, Provider] = {"silc_kernels": ours}
    if peer("torchvision") is not None:
        from benchmarks.kernels import views_peers

        there = list(pixels.permute(0, 3, 1, 2))
        found["torchvision v2, a view at a time"] = lambda: [
            views_peers.cut(there, group.boxes, group.flips, group.side) for group in groups
        ]
    return found


def from_host(*shape: int) -> dict[str, Provider]:
    """Copies and device work of both ways; the trainer's own parts, which need more than torch."""
    from benchmarks.kernels.views_from_host import copied

    return copied(*shape)


def sent_bytes(height: int, width: int, large: int, small: int) -> tuple[int, int]:
    """Bytes of an image over the bus: as a decoded image, and as ten crops; rows of parameters in both."""
    rows = 10 * 8 * 4
    return 3 * height * width + rows, 3 * (2 * large**2 + 8 * small**2) + rows
