"""Crops of decoded images: the face."""

import torch
from torch import Tensor

from ..common import dispatch
from . import torch_backend
from .regions import OP, regions


def crop_resize(
    pixels: Tensor,
    offsets: Tensor,
    sizes: Tensor,
    index: Tensor,
    boxes: Tensor,
    flips: Tensor,
    size: int,
    *,
    out: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Square views of decoded images of any sizes, each cut by a box, mirrored or not, and resized.

    Bicubic with antialiasing (the filter grows with the scale), in the whole numbers of torch's CPU kernel for bytes:
    across, rounded to bytes, then down. The result is that of `interpolate(region, (size, size), mode="bicubic",
    antialias=True)` on the CPU, bit for bit, wherever it is computed.

    Where to cut is known to the host, and given on the CPU: it is checked there without a wait for the device. A CUDA
    graph cannot hold the call, and compiled code leaves it out of its graph: the regions decide memory and launches.

    Args:
        pixels: uint8 [bytes], k images, each [H, W, 3] from its offset on; on the device that computes.
        offsets: int64 [k], of each image's first byte; on the CPU, as all that follows.
        sizes: int64 [k, 2], height and width of each image in pixels.
        index: int64 [n], the image that each view is cut out of.
        boxes: int64 [n, 4], top, left, height and width in pixels.
        flips: bool [n], mirrored left to right.
        size: pixels a side, R.
        out: uint8 [n, 3, R, R], contiguous, to write to; None: a new one.
        backend: "auto", or a name from `dispatch.report`.

    Returns:
        uint8 [n, 3, R, R], on the device of `pixels`. It has no gradient.

    Raises:
        ValueError: a wrong shape, dtype or device, or a box outside of its image; with the reason.
    """
    if not isinstance(pixels, Tensor) or pixels.dtype != torch.uint8 or pixels.dim() != 1 or not pixels.is_contiguous():
        raise ValueError(f"{OP}: pixels must be a contiguous uint8 tensor of one dimension, the bytes of all images")
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(f"{OP}: size is {size!r}; give the pixels a side of a view, such as 224")
    images, views = len(offsets), len(index)
    _check_host("offsets", offsets, (images,), torch.int64)
    _check_host("sizes", sizes, (images, 2), torch.int64)
    _check_host("index", index, (views,), torch.int64)
    _check_host("boxes", boxes, (views, 4), torch.int64)
    _check_host("flips", flips, (views,), torch.bool)
    cut = regions(len(pixels), offsets, sizes, index, boxes, flips)
    shape = (views, 3, size, size)
    if out is None:
        out = torch.empty(shape, dtype=torch.uint8, device=pixels.device)
    elif out.shape != shape or out.dtype != torch.uint8 or out.device != pixels.device or not out.is_contiguous():
        raise ValueError(
            f"{OP}: out is {out.dtype} {list(out.shape)} on {out.device}; it must be contiguous uint8 {list(shape)} on "
            f"{pixels.device}"
        )
    if views:
        dispatch.run(OP, (out, pixels, cut), backend, out, pixels, cut)
    return out


def _check_host(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if tensor.is_cpu and tensor.dtype == dtype and tensor.shape == shape:
        return
    if not tensor.is_cpu:
        raise ValueError(f"{OP}: {name} is on {tensor.device}; where to cut is given on the CPU")
    raise ValueError(f"{OP}: {name} is {tensor.dtype} {list(tensor.shape)}; it must be {dtype} {list(shape)}")


dispatch.register(OP, "torch", torch_backend.cut)
dispatch.register(OP, "triton", dispatch.later("silc_kernels.crops.triton_backend", "cut"), dispatch.triton_takes(OP))
