"""What segmentation heads learn from: windows of training images, and the class of each cell of a grid over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from silc.data.splits import IGNORE, Split
from silc.evaluate.segmentation import windows
from silc.evaluate.sharding import Job


def training_windows(split: Split, index: int, patch: int, job: Job) -> tuple[Tensor, Tensor]:
    """A training image's windows, uint8 [n, 3, rows, columns], and their pixels' classes, int64 [n, rows, columns].

    The image is resized as images are for testing, its mask with it (nearest).
    """
    image, mask = job.image_and_mask(split, index)
    shape = job.geometry
    pixels = windows.resized(image, shape.short_side, patch)
    height, width = pixels.shape[1:]
    truth = F.interpolate(mask[None, None].double(), size=(height, width), mode="nearest-exact")[0].long()
    places = windows.boxes(height, width, shape.window, shape.window or 1)
    return windows.cut(pixels, places), windows.cut(truth, places)[:, 0]


def cells(truth: Tensor, side: int, classes: int) -> tuple[Tensor, Tensor]:
    """The most frequent class of each cell of `side` x `side` pixels (the first of equals; IGNORE where no pixel has
    one), and the share of the cell's pixels that have a class: [n, rows, columns] -> int64 and fp32
    [n, rows / side, columns / side].
    """
    n, rows, columns = truth.shape
    grid = truth.view(n, rows // side, side, columns // side, side).transpose(2, 3).flatten(3)
    known = grid != IGNORE
    votes = torch.zeros(*grid.shape[:3], classes + 1)
    votes.scatter_add_(3, torch.where(known, grid, classes), torch.ones(grid.shape))
    label = votes[..., :classes].argmax(-1)
    share = known.float().mean(-1)
    return torch.where(share > 0, label, IGNORE), share


def endless(indices: Sequence[int], generator: torch.Generator) -> Iterator[int]:
    """The indices in a random order, again and again."""
    while True:
        yield from (indices[i] for i in torch.randperm(len(indices), generator=generator).tolist())
