"""crop_resize by Triton: tables, buffers and launches. triton_kernels.py says what is computed."""

import torch
import triton
from torch import Tensor

from ..common.transfer import sent
from . import triton_kernels as kernels
from .triton_launch import WEIGHED, launch_config, parts
from .weights import most_taps


def cut(out: Tensor, pixels: Tensor, regions: Tensor) -> Tensor:
    """See `torch_backend.cut`. Some views at a time, so that what lies between the directions is bounded."""
    heights, widths = regions[:, 2].tolist(), regions[:, 3].tolist()
    with torch.cuda.device_of(out):
        for part in parts(heights, widths, out.shape[-1]):
            _cut(out[part], pixels, regions[part])
    return out


def _cut(out: Tensor, pixels: Tensor, regions: Tensor) -> None:
    count, size, device = len(regions), out.shape[-1], out.device
    config = launch_config("across", device)
    heights, widths = regions[:, 2], regions[:, 3]
    taps = torch.tensor([[most_taps(length, size) for length in side.tolist()] for side in (widths, heights)])
    taps_before = (taps.flatten().cumsum(0) - taps.flatten()).view(2, count)
    tiles = (heights + config.rows - 1) // config.rows * triton.cdiv(size, config.columns)
    columns = [*taps_before, heights.cumsum(0) - heights, tiles.cumsum(0) - tiles]
    table = sent(torch.cat([regions, torch.stack(columns, 1)], 1), device)
    views = sent(torch.arange(count, dtype=torch.int32).repeat_interleave(tiles), device)

    starts = torch.empty(count, 2, size, dtype=torch.int32, device=device)
    shifts = torch.empty(count, 2, dtype=torch.int32, device=device)
    found = torch.empty(int(taps.sum()) * size, dtype=torch.int16, device=device)
    between = torch.empty(int(heights.sum()) * 3 * size, dtype=torch.uint8, device=device)
    # Products and sums rounded one by one, as on a CPU: a weight that is half way between two numbers stays so.
    kernels.weigh[(2 * count,)](table, starts, shifts, found, size, BLOCK=WEIGHED, num_warps=4, enable_fp_fusion=False)
    kernels.across[(len(views),)](
        pixels,
        table,
        views,
        starts,
        shifts,
        found,
        between,
        size,
        ROWS=config.rows,
        COLUMNS=config.columns,
        num_warps=config.warps,
    )
    config = launch_config("down", device)
    grid = (count * triton.cdiv(size, config.rows) * triton.cdiv(size, config.columns),)
    kernels.down[grid](
        between,
        table,
        starts,
        shifts,
        found,
        out,
        size,
        ROWS=config.rows,
        COLUMNS=config.columns,
        num_warps=config.warps,
    )
