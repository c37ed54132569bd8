"""The photometric list by Triton: buffers and launches. triton_kernels.py says what is computed."""

import torch
import triton
from torch import Tensor

from . import triton_kernels as kernels
from .triton_launch import PARTIALS, LaunchConfig, launch_config, views_at_once


def distort_(views: Tensor, parameters: Tensor) -> None:
    """See `ops.photometric`. Some views at a time, so that scratch memory is bounded; nothing is waited for."""
    count, parameters = len(views), parameters.contiguous()
    at_once = min(count, views_at_once(views[0].numel()))
    scratch = torch.empty(2, at_once, *views.shape[1:], dtype=torch.uint16, device=views.device)
    with torch.cuda.device_of(views):
        partial = _greys(views, parameters)
        for start in range(0, count, at_once):
            part = slice(start, start + at_once)
            _points(views[part], parameters[part], partial[part], scratch[0])
            _across(scratch, parameters[part])
            _down(scratch[1], parameters[part], views[part])


def _greys(views: Tensor, parameters: Tensor) -> Tensor:
    """Sums of the grey, a tile each, [n, tiles]; unwritten for views without jitter."""
    config, pixels = launch_config("greys", views.device), views[0, 0].numel()
    tiles = triton.cdiv(pixels, config.columns)
    partial = torch.empty(len(views), tiles, dtype=torch.float32, device=views.device)
    kernels.greys[(len(views) * tiles,)](
        views, parameters, partial, pixels, tiles, BLOCK=config.columns, num_warps=config.warps
    )
    return partial


def _points(views: Tensor, parameters: Tensor, partial: Tensor, scratch: Tensor) -> None:
    config, pixels = launch_config("points", views.device), views[0, 0].numel()
    tiles = triton.cdiv(pixels, config.columns)
    kernels.points[(len(views) * tiles,)](
        views,
        parameters,
        partial,
        scratch,
        pixels,
        tiles,
        partial.shape[1],
        1 / pixels,
        BLOCK=config.columns,
        PARTIALS=PARTIALS,
        num_warps=config.warps,
    )


def _across(scratch: Tensor, parameters: Tensor) -> None:
    height, width = scratch.shape[-2:]
    config = launch_config("blur_across", scratch.device)
    kernels.blur_across[_tiles(len(parameters), height, width, config)](
        scratch[0],
        parameters,
        scratch[1],
        height,
        width,
        ROWS=config.rows,
        COLUMNS=config.columns,
        num_warps=config.warps,
    )


def _down(scratch: Tensor, parameters: Tensor, views: Tensor) -> None:
    height, width = views.shape[-2:]
    config = launch_config("blur_down", views.device)
    kernels.blur_down[_tiles(len(views), height, width, config)](
        scratch, parameters, views, height, width, ROWS=config.rows, COLUMNS=config.columns, num_warps=config.warps
    )


def _tiles(count: int, height: int, width: int, config: LaunchConfig) -> tuple[int]:
    """Of all channels of some views."""
    return (3 * count * triton.cdiv(height, config.rows) * triton.cdiv(width, config.columns),)
