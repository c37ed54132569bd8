"""crop_resize by Triton: buffers and launches. triton_kernels.py says what is computed."""

import torch
import triton
from torch import Tensor

from ..common.launcher import launcher
from ..common.transfer import sent
from . import triton_kernels as kernels
from .triton_launch import WEIGHED, launch_config
from .triton_tables import TABLE, Part, parts


def cut(out: Tensor, pixels: Tensor, regions: Tensor) -> Tensor:
    """See `torch_backend.cut`. Some views at a time, so that what lies between the directions is bounded."""
    with torch.cuda.device_of(out):
        for part in parts(regions, out.shape[-1], launch_config("across", out.device)):
            first, end = part.views.start, part.views.stop
            _cut(out if end - first == len(out) else out[part.views], part, end - first, pixels)
    return out


def _cut(out: Tensor, part: Part, count: int, pixels: Tensor) -> None:
    size, device = out.shape[-1], out.device
    table = sent(part.numbers, device)
    views = table[count * len(TABLE) :]
    starts = torch.empty(count, 2, size, dtype=torch.int32, device=device)
    shifts = torch.empty(count, 2, dtype=torch.int32, device=device)
    found = torch.empty(part.taps * size, dtype=torch.int16, device=device)
    between = torch.empty(part.lines * 3 * size, dtype=torch.uint8, device=device)
    # Products and sums rounded one by one, as on a CPU: a weight that is half way between two numbers stays so.
    launcher(kernels.weigh, BLOCK=WEIGHED, num_warps=4, enable_fp_fusion=False)(
        (2 * count,), table, starts, shifts, found, size
    )
    config = launch_config("across", device)
    launcher(kernels.across, ROWS=config.rows, COLUMNS=config.columns, num_warps=config.warps)(
        (part.tiles,), pixels, table, views, starts, shifts, found, between, size
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
