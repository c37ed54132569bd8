"""Images of any size through a tower: resized to a short side, cut into sliding windows, scores merged again.

Windows overlap; a pixel's scores are the mean over the windows that contain it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from silc.config import Config
from silc.data.shards import Unreadable
from silc.data.views.crops import resize_into

CLASSES = 32  # class maps that are upsampled to the image's size at a time, where the image is not large
SCORES = 1 << 28  # numbers in them, at most; one class map may be more
SMALL = 1 << 22  # numbers in the maps of all classes, at which they are upsampled together
NARROW = 128  # cells a side up to which products are the faster way to upsample on a CPU
LONGEST = 8  # times the shorter side; the memory of the scores grows with the longer one

Box = tuple[int, int, int, int]  # top, left, height, width


@dataclass(frozen=True)
class Geometry:
    """How an image is cut.

    Attributes:
        short_side: pixels of the shorter side, a multiple of the patch.
        window: pixels a side of a window; 0: the whole image.
        stride: pixels from window to window.
        batch: windows in a forward pass.
    """

    short_side: int
    window: int
    stride: int
    batch: int

    def words(self) -> str:
        """The protocol in words, for the table and the report."""
        how = f"windows of {self.window} px every {self.stride} px" if self.window else "the whole image at once"
        return f"short side {self.short_side} px, {how}, bilinear upsampling, no post-processing"


def geometry(config: Config) -> Geometry:
    """The geometry that a configuration asks for. Defaults: a short side of 7/4 of a global crop's, windows of that
    size, with a quarter of overlap (448, 448, 336 for crops of 256 px).

    Raises ValueError for a stride larger than the window: pixels between the windows would have no scores.
    """
    evaluation, patch = config.eval, config.model.vision.patch_size
    side = evaluation.short_side or max(1, round(7 / 4 * config.views.global_size / patch)) * patch
    window = side if evaluation.window is None else evaluation.window
    stride = evaluation.stride or max(1, window * 3 // 4)
    if window and stride > window:
        raise ValueError(
            f"eval.stride={stride} is larger than eval.window={window} (null: as large as eval.short_side): pixels "
            "between the windows would be left out; take a smaller stride"
        )
    return Geometry(side, window, stride, evaluation.batch)


def resized(image: Tensor, short_side: int, patch: int) -> Tensor:
    """uint8 [H, W, 3] -> uint8 [3, h, w]: the shorter side `short_side`, the other in proportion, both multiples of
    `patch`. Raises Unreadable for a longer side of more than LONGEST times the shorter one.
    """
    if max(image.shape[:2]) > LONGEST * min(image.shape[:2]):
        raise Unreadable(f"longer than {LONGEST} times its width")
    scale = short_side / min(image.shape[:2])
    height, width = (max(1, round(side * scale / patch)) * patch for side in image.shape[:2])
    out = torch.empty(3, height, width, dtype=torch.uint8)
    resize_into(out, image.contiguous())
    return out


def boxes(height: int, width: int, window: int, stride: int) -> list[Box]:
    """The windows, row by row; the last one of a row or column ends at the edge. window 0: one, the whole image."""
    rows, columns = (min(window, side) if window else side for side in (height, width))
    return [(t, x, rows, columns) for t in _starts(height, rows, stride) for x in _starts(width, columns, stride)]


def _starts(side: int, window: int, stride: int) -> list[int]:
    return [*range(0, side - window, stride), side - window]


def cut(image: Tensor, places: list[Box]) -> Tensor:
    """[channels, h, w] -> the windows [n, channels, rows, columns]."""
    return torch.stack([image[:, t : t + rows, x : x + columns] for t, x, rows, columns in places])


def batched(crops: Sequence[Tensor], batch: int, function: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """A function of windows of several images: uint8 [n, 3, rows, columns] of each -> [n, ...] of each.

    Windows of one size go through it together, at most `batch` at a time: small models take longer to call than to run.
    """
    found: dict[int, Tensor] = {}
    sizes = dict.fromkeys(one.shape[2:] for one in crops)
    for size in sizes:
        members = [number for number, one in enumerate(crops) if one.shape[2:] == size]
        together = torch.cat([crops[number] for number in members])
        values = torch.cat([function(some) for some in together.split(batch)])
        found |= zip(members, values.split([len(crops[number]) for number in members]), strict=True)
    return [found[number] for number in range(len(crops))]


def slide(image: Tensor, shape: Geometry, scores: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean scores of each pixel: uint8 [3, h, w] -> fp32 [C, h, w].

    scores: uint8 [n, 3, rows, columns] -> [n, C, any, any], upsampled to the window's size bilinearly.
    """
    height, width = image.shape[1:]
    places = boxes(height, width, shape.window, shape.stride)
    (found,) = batched([cut(image, places)], shape.batch, scores)
    return merged(found, places, height, width)


def merged(found: Tensor, places: list[Box], height: int, width: int) -> Tensor:
    """Scores of an image's windows, [n, C, any, any] -> their mean at each pixel, fp32 [C, height, width]."""
    # Classes last in memory, as the products with their embeddings are: adding and comparing are then fastest.
    total = found.new_zeros(height, width, found.shape[1]).permute(2, 0, 1)
    seen = torch.zeros(height, width, device=found.device)
    for (top, left, rows, columns), one in zip(places, found, strict=True):
        window = (slice(top, top + rows), slice(left, left + columns))
        total[:, *window] += upsample(one, (rows, columns))
        seen[window] += 1
    return total.div_(seen)


def upsample(scores: Tensor, size: tuple[int, ...]) -> Tensor:
    """Bilinear: [C, h, w] -> [C, *size]. Within rounding the same on every device."""
    if scores.is_cpu and scores.dtype == torch.float32 and max(scores.shape[1:]) <= NARROW:
        return _upsample_by_products(scores, size)
    return F.interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0]


def _upsample_by_products(scores: Tensor, size: tuple[int, ...]) -> Tensor:
    """The same by two matrix products, of rows and of columns: on a CPU two to twelve times as fast while the maps are
    small, with classes last in memory."""
    count, height, width = scores.shape
    last = scores.permute(1, 2, 0).reshape(height, width * count)
    rows = (_weights(height, size[0]) @ last).view(size[0], width, count)
    return (_weights(width, size[1]) @ rows).permute(2, 0, 1)


@lru_cache(16)  # of an image at the limit of sides one takes 14 MB
def _weights(source: int, size: int) -> Tensor:
    """What each of `size` cells takes of each of `source` along a side, as align_corners=False has it: fp32
    [size, source], each row with a sum of 1."""
    place = ((torch.arange(size, dtype=torch.float64) + 0.5) * (source / size) - 0.5).clamp_(0, source - 1)
    first = place.floor().long()
    share = (place - first).float()
    weights = torch.zeros(size, source)
    cells = torch.arange(size)
    weights[cells, first] += 1 - share
    weights[cells, (first + 1).clamp_(max=source - 1)] += share
    return weights


def best_class(scores: Tensor, size: tuple[int, ...]) -> Tensor:
    """Class of the highest score at each pixel, the first of equals: [C, h, w] -> int64 [*size].

    A few classes are upsampled at a time: all of them at the size of a large image would take gigabytes.
    """
    if tuple(scores.shape[1:]) == size:
        return scores.argmax(0)
    best = torch.full(size, -torch.inf, device=scores.device)
    winner = torch.zeros(size, dtype=torch.int64, device=scores.device)
    few = len(scores) * best.numel() <= min(SMALL, SCORES)
    together = len(scores) if few else max(1, min(CLASSES, SCORES // best.numel()))
    for first in range(0, len(scores), together):
        value, number = upsample(scores[first : first + together], size).max(0)
        better = value > best
        best[better], winner[better] = value[better], number[better] + first
    return winner
