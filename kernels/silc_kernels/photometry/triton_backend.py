"""The photometric list by Triton: buffers and launches. triton_kernels.py says what is computed."""

import torch
import triton
from torch import Tensor

from ..common.launcher import launcher
from . import triton_kernels as kernels
from .triton_launch import PARTIALS, LaunchConfig, launch_config, views_at_once


def distort_(views: Tensor, parameters: Tensor) -> None:
    """See `ops.photometric`. Some views at a time, so that scratch memory is bounded; nothing is waited for."""
    (count, channels, height, width), device, parameters = views.shape, views.device, parameters.contiguous()
    at_once = min(count, views_at_once(channels * height * width))
    shape = (at_once, channels, height, width)
    scratch = [torch.empty(shape, dtype=torch.uint16, device=device) for _ in range(2)]
    with torch.cuda.device_of(views):
        partial = _greys(views, parameters)
        if at_once == count:
            _distort_(views, parameters, partial, scratch)
        else:
            for part in map(slice, range(0, count, at_once), range(at_once, count + at_once, at_once)):
                _distort_(views[part], parameters[part], partial[part], scratch)


def _distort_(views: Tensor, parameters: Tensor, partial: Tensor, scratch: list[Tensor]) -> None:
    count, _, height, width = views.shape
    pixels = height * width
    config = launch_config("points", views.device)
    tiles = triton.cdiv(pixels, config.columns)
    launcher(kernels.points, BLOCK=config.columns, PARTIALS=PARTIALS, num_warps=config.warps)(
        (count * tiles,), views, parameters, partial, scratch[0], pixels, tiles, partial.shape[1], 1 / pixels
    )
    config = launch_config("blur_across", views.device)
    launcher(kernels.blur_across, **_options(config))(
        _tiles(count, height, width, config), scratch[0], parameters, scratch[1], height, width
    )
    config = launch_config("blur_down", views.device)
    launcher(kernels.blur_down, **_options(config))(
        _tiles(count, height, width, config), scratch[1], parameters, views, height, width
    )


def _greys(views: Tensor, parameters: Tensor) -> Tensor:
    """Sums of the grey, a tile each, [n, tiles]; unwritten for views without jitter."""
    count, _, height, width = views.shape
    config, pixels = launch_config("greys", views.device), height * width
    tiles = triton.cdiv(pixels, config.columns)
    partial = torch.empty(count, tiles, dtype=torch.float32, device=views.device)
    launcher(kernels.greys, BLOCK=config.columns, num_warps=config.warps)(
        (count * tiles,), views, parameters, partial, pixels, tiles
    )
    return partial


def _options(config: LaunchConfig) -> dict[str, int]:
    return {"ROWS": config.rows, "COLUMNS": config.columns, "num_warps": config.warps}


def _tiles(count: int, height: int, width: int, config: LaunchConfig) -> tuple[int]:
    """Of all channels of some views."""
    return (3 * count * triton.cdiv(height, config.rows) * triton.cdiv(width, config.columns),)
