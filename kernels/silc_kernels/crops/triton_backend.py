"""crop_resize by Triton: tables, buffers and launches. triton_kernels.py says what is computed."""

import torch
import triton
from torch import Tensor

from ..common.launcher import launcher
from ..common.transfer import sent
from . import triton_kernels as kernels
from .triton_launch import TABLE, WEIGHED, launch_config, parts
from .weights import REACH


def cut(out: Tensor, pixels: Tensor, regions: Tensor) -> Tensor:
    """See `torch_backend.cut`. Some views at a time, so that what lies between the directions is bounded."""
    size = out.shape[-1]
    sides = regions[:, 2:4].flip(1)  # width, height
    taps = (REACH * sides.clamp(min=size) + (size - 1)) // size * 2 + 1  # as `most_taps`
    # Bytes of lines between the directions, and of weights.
    needed = torch.stack([sides[:, 1] * (3 * size), taps.sum(1) * (2 * size)], 1)
    with torch.cuda.device_of(out):
        for part in parts(needed):
            whole = part.stop - part.start == len(out)
            views, where, reach = (each if whole else each[part] for each in (out, regions, taps))
            _cut(views, where, reach, pixels)
    return out


def _cut(out: Tensor, regions: Tensor, taps: Tensor, pixels: Tensor) -> None:
    count, size, device = len(regions), out.shape[-1], out.device
    config = launch_config("across", device)
    heights = regions[:, 2]
    tiles = (heights + (config.rows - 1)) // config.rows * triton.cdiv(size, config.columns)
    # Taps across, taps down, lines between and tiles of each view, and of all views before it.
    each = torch.cat([taps, torch.stack([heights, tiles], 1)], 1)
    to_here = each.cumsum(0)
    across, down, lines, all_tiles = to_here[-1].tolist()
    before = to_here - each
    before[:, 1] += across  # taps down lie behind all those across
    owners = torch.arange(count).repeat_interleave(tiles, output_size=all_tiles)
    # In one piece, one copy: the table, and which view each tile belongs to.
    given = sent(torch.cat([torch.cat([regions, before], 1).flatten(), owners]), device)
    table, views = given, given[count * len(TABLE) :]

    starts = torch.empty(count, 2, size, dtype=torch.int32, device=device)
    shifts = torch.empty(count, 2, dtype=torch.int32, device=device)
    found = torch.empty((across + down) * size, dtype=torch.int16, device=device)
    between = torch.empty(lines * 3 * size, dtype=torch.uint8, device=device)
    # Products and sums rounded one by one, as on a CPU: a weight that is half way between two numbers stays so.
    launcher(kernels.weigh, BLOCK=WEIGHED, num_warps=4, enable_fp_fusion=False)(
        (2 * count,), table, starts, shifts, found, size
    )
    launcher(kernels.across, ROWS=config.rows, COLUMNS=config.columns, num_warps=config.warps)(
        (all_tiles,), pixels, table, views, starts, shifts, found, between, size
    )
    config = launch_config("down", device)
    launcher(kernels.down, ROWS=config.rows, COLUMNS=config.columns, num_warps=config.warps)(
        (count * triton.cdiv(size, config.rows) * triton.cdiv(size, config.columns),),
        between,
        table,
        starts,
        shifts,
        found,
        out,
        size,
    )
