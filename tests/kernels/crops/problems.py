"""Images of any sizes, boxes in them, and torch's own resize of what they hold."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Problem(NamedTuple):
    """The arguments of crop_resize but for the size."""

    pixels: Tensor
    offsets: Tensor
    sizes: Tensor
    index: Tensor
    boxes: Tensor
    flips: Tensor

    def to(self, device: torch.device) -> Problem:
        return self._replace(pixels=self.pixels.to(device))


def problem(sizes: list[tuple[int, int]], boxes: list[tuple[int, ...]], *, gap: int = 0, seed: int = 1) -> Problem:
    """Images of `sizes`: noise, or noise of black and white where the number is odd; `gap` bytes between them.

    boxes: (image, top, left, height, width, flip).
    """
    generator = torch.Generator().manual_seed(seed)
    offsets, parts, at = [], [], 0
    for number, (height, width) in enumerate(sizes):
        image = torch.randint(0, 256, (3 * height * width,), dtype=torch.uint8, generator=generator)
        parts += [torch.full((gap,), 99, dtype=torch.uint8), (image >> 7) * 255 if number % 2 else image]
        offsets.append(at + gap)
        at += gap + image.numel()
    rows = torch.tensor(boxes, dtype=torch.int64).reshape(-1, 6)
    return Problem(
        torch.cat(parts), torch.tensor(offsets), torch.tensor(sizes), rows[:, 0], rows[:, 1:5], rows[:, 5].bool()
    )


def interpolated(given: Problem, size: int) -> Tensor:
    """By torch's CPU kernel, a view at a time; the region is mirrored, not the view."""
    views = []
    for image, (top, left, rows, columns), flip in zip(
        given.index.tolist(), given.boxes.tolist(), given.flips.tolist(), strict=True
    ):
        height, width = given.sizes[image].tolist()
        start = int(given.offsets[image])
        whole = given.pixels[start : start + 3 * height * width].view(height, width, 3)
        region = whole[top : top + rows, left : left + columns].permute(2, 0, 1)
        region = region.flip(2) if flip else region
        views.append(F.interpolate(region[None], (size, size), mode="bicubic", antialias=True)[0])
    return torch.stack(views)


MIXED = problem(
    [(40, 60), (31, 7), (1, 1), (64, 33)],
    [
        (0, 0, 0, 40, 60, 0),
        (0, 3, 11, 20, 24, 1),
        (1, 0, 0, 31, 7, 0),
        (1, 30, 6, 1, 1, 1),
        (2, 0, 0, 1, 1, 0),
        (3, 1, 2, 60, 30, 1),
        (3, 8, 16, 16, 16, 0),
        (3, 0, 0, 1, 33, 1),
    ],
    gap=5,
)
LONG = problem([(2, 650), (330, 3)], [(0, 0, 0, 2, 650, 1), (1, 0, 0, 330, 3, 0), (0, 1, 7, 1, 640, 0)])
