"""What the kernels of crop_resize read of each view, for some views at a time: few in plain numbers, as regions.py."""

from array import array
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .regions import FEW
from .triton_launch import LaunchConfig
from .weights import REACH, most_taps

# Columns: the region (`regions.REGION`); taps before its weights across and down, and lines before its own between the
# two directions, not in bytes, so that the compiler sees what the products with the size are multiples of; and tiles
# across before its own.
TABLE = ("offset", "line", "height", "width", "flip", "across", "down", "between", "tile")
# Bytes of lines between the two directions, and of weights, for a launch; a view that needs more has one alone.
MOST_BYTES = 1 << 26


class Part(NamedTuple):
    """Views that go together, and what they need in all.

    Attributes:
        views: which.
        numbers: int64, the rows of TABLE, then the view in this part of each tile across: in one piece, one copy.
        taps, lines, tiles: of all directions and views.
    """

    views: slice
    numbers: Tensor
    taps: int
    lines: int
    tiles: int


def parts(regions: Tensor, size: int, config: LaunchConfig) -> Iterator[Part]:
    """The views of `regions` (int64 [n, 5], CPU) resized to `size`, in parts of MOST_BYTES; config: of the launch
    across.
    """
    if len(regions) <= FEW:
        yield from _by_numbers(regions, size, config)
    else:
        yield from _by_tensors(regions, size, config)


def _by_numbers(regions: Tensor, size: int, config: LaunchConfig) -> Iterator[Part]:
    table, owners = array("q"), array("q")
    start = taps = lines = tiles = 0
    most_lines, most_taps_ = MOST_BYTES // (3 * size), MOST_BYTES // (2 * size)
    columns = -(-size // config.columns)
    count = len(regions)
    for view, region in enumerate(regions.tolist()):
        _, _, height, width, _ = region
        across, down = most_taps(width, size), most_taps(height, size)
        if view > start and (lines + height > most_lines or taps + across + down > most_taps_):
            yield _part(slice(start, view), table, owners, taps, lines, tiles)
            table, owners, start, taps, lines, tiles = array("q"), array("q"), view, 0, 0, 0
        table.extend((*region, taps, taps + across, lines, tiles))
        of_view = -(-height // config.rows) * columns
        owners += array("q", (view - start,)) * of_view
        taps, lines, tiles = taps + across + down, lines + height, tiles + of_view
    yield _part(slice(start, count), table, owners, taps, lines, tiles)


def _part(views: slice, table: "array[int]", owners: "array[int]", taps: int, lines: int, tiles: int) -> Part:
    return Part(views, torch.frombuffer(table + owners, dtype=torch.int64), taps, lines, tiles)


def _by_tensors(regions: Tensor, size: int, config: LaunchConfig) -> Iterator[Part]:
    sides = regions[:, 2:4].flip(1)  # width, height
    taps = (REACH * sides.clamp(min=size) + (size - 1)) // size * 2 + 1  # as `most_taps`
    # Bytes of lines between the directions, and of weights.
    needed = torch.stack([sides[:, 1] * (3 * size), taps.sum(1) * (2 * size)], 1)
    for views in together(needed):
        yield _table(views, regions[views], taps[views], -(-size // config.columns), config.rows)


def together(needed: Tensor) -> Iterator[slice]:
    """Views that go together. needed: bytes of lines between the directions and of weights, a row a view."""
    if max(needed.sum(0).tolist()) <= MOST_BYTES:
        yield slice(0, len(needed))
        return
    start = lines = weighed = 0
    for view, (line, weight) in enumerate(needed.tolist()):
        if view > start and (lines + line > MOST_BYTES or weighed + weight > MOST_BYTES):
            yield slice(start, view)
            start, lines, weighed = view, 0, 0
        lines, weighed = lines + line, weighed + weight
    yield slice(start, len(needed))


def _table(views: slice, regions: Tensor, taps: Tensor, columns: int, rows: int) -> Part:
    heights = regions[:, 2]
    tiles = (heights + (rows - 1)) // rows * columns
    across = taps[:, 0]
    # Taps, lines between and tiles of each view, and of all views before it.
    each = torch.stack([across + taps[:, 1], heights, tiles], 1)
    to_here = each.cumsum(0)
    before = to_here - each
    all_taps, lines, all_tiles = to_here[-1].tolist()
    table = torch.cat([regions, before[:, :1], before[:, :1] + across[:, None], before[:, 1:]], 1)
    owners = torch.arange(len(regions)).repeat_interleave(tiles, output_size=all_tiles)
    return Part(views, torch.cat([table.flatten(), owners]), all_taps, lines, all_tiles)
