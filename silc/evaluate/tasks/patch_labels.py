"""What segmentation heads learn from: windows of training pictures, and the class of each cell of a grid over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from silc.data.splits import IGNORE, Split, check_mask_size
from silc.evaluate import windows
from silc.evaluate.sharding import Job


def training_windows(split: Split, number: int, patch: int, job: Job) -> tuple[Tensor, Tensor]:
    """A training picture's windows, uint8 [n, 3, rows, columns], and their pixels' classes, int64 [n, rows, columns].

    The picture is brought to the size at which pictures are tested, the mask with it (nearest).
    """
    picture, mask = split.picture(number), split.mask(number)
    check_mask_size(mask, picture, split.key(number))
    shape = job.geometry
    image = windows.resized(picture, shape.short_side, patch)
    truth = F.interpolate(mask[None, None].double(), size=image.shape[1:], mode="nearest-exact")[0].long()
    places = windows.boxes(*image.shape[1:], shape.window, shape.window or 1)
    return windows.cut(image, places), windows.cut(truth, places)[:, 0]


def cells(truth: Tensor, side: int, classes: int) -> tuple[Tensor, Tensor]:
    """The commonest class of each cell of `side` x `side` pixels (the first of equals; IGNORE where no pixel has one),
    and the share of the cell's pixels that have a class: [n, rows, columns] -> int64 and fp32 [n, rows / side, ...].
    """
    n, rows, columns = truth.shape
    grid = truth.view(n, rows // side, side, columns // side, side).transpose(2, 3).flatten(3)
    known = grid != IGNORE
    votes = torch.zeros(*grid.shape[:3], classes + 1)
    votes.scatter_add_(3, torch.where(known, grid, classes), torch.ones(grid.shape))
    label = votes[..., :classes].argmax(-1)
    share = known.float().mean(-1)
    return torch.where(share > 0, label, IGNORE), share


def endless(numbers: Sequence[int], generator: torch.Generator) -> Iterator[int]:
    """The numbers in a random order, again and again."""
    while True:
        yield from (numbers[i] for i in torch.randperm(len(numbers), generator=generator).tolist())
