"""Crops of decoded images: the face."""

import torch
from torch import Tensor

from ..common import dispatch
from . import torch_backend

OP = "crop_resize"
MOST_BYTES = 2**31  # of an image: kernels count in 32 bits inside of one
REGION = ("offset", "line", "height", "width", "flip")  # columns of what backends get


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
        pixels: uint8 [bytes], k images, each [H, W, 3] from its offset on, none behind the last one; on the device that
            computes.
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
    _check_images(pixels, offsets, sizes)
    of = _check_boxes(sizes, index, boxes)
    shape = (views, 3, size, size)
    if out is None:
        out = torch.empty(shape, dtype=torch.uint8, device=pixels.device)
    elif out.shape != shape or out.dtype != torch.uint8 or out.device != pixels.device or not out.is_contiguous():
        raise ValueError(
            f"{OP}: out is {out.dtype} {list(out.shape)} on {out.device}; it must be contiguous uint8 {list(shape)} on "
            f"{pixels.device}"
        )
    if views:
        top, left, height, width = boxes.unbind(1)
        line = 3 * of[:, 1]
        corner = offsets[index] + top * line + 3 * left
        regions = torch.stack([corner, line, height, width, flips.long()], 1)
        dispatch.run(OP, (out, pixels, regions), backend, out, pixels, regions)
    return out


def _check_host(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if tensor.device.type != "cpu":
        raise ValueError(f"{OP}: {name} is on {tensor.device}; where to cut is given on the CPU")
    if tensor.dtype != dtype or tensor.shape != shape:
        raise ValueError(f"{OP}: {name} is {tensor.dtype} {list(tensor.shape)}; it must be {dtype} {list(shape)}")


def _check_images(pixels: Tensor, offsets: Tensor, sizes: Tensor) -> None:
    """Few steps where all is well; which image is wrong is found afterwards."""
    if not len(sizes):
        return
    least, most = map(int, sizes.aminmax())
    first, last = map(int, offsets.aminmax())
    # Each bound before the products and sums that would overflow beyond it.
    if least >= 1 and most < MOST_BYTES and first >= 0 and last <= len(pixels):
        values = sizes.prod(1)
        end = int((offsets + 3 * values).max())
        if int(values.max()) <= (MOST_BYTES - 1) // 3 and end <= len(pixels):
            if end < len(pixels):  # of an alpha channel, most of the time
                raise ValueError(
                    f"{OP}: pixels holds {len(pixels)} bytes, and the last image ends at {end}; images are [H, W, 3]: "
                    f"leave a fourth channel out, or give pixels[:{end}]"
                )
            return
    for i, ((height, width), offset) in enumerate(zip(sizes.tolist(), offsets.tolist(), strict=True)):
        length = 3 * height * width
        if min(height, width, offset + 1) < 1 or length >= MOST_BYTES or offset + length > len(pixels):
            raise ValueError(
                f"{OP}: image {i} of {height} x {width} pixels from byte {offset} on is not within the "
                f"{len(pixels)} bytes of pixels, or of 2 GiB or more; check offsets and sizes"
            )


def _check_boxes(sizes: Tensor, index: Tensor, boxes: Tensor) -> Tensor:
    """-> [n, 2], the size of each view's image."""
    if not len(index):
        return boxes[:, :2]
    first, last = map(int, index.aminmax())
    if first < 0 or last >= len(sizes):
        i, image = next((i, image) for i, image in enumerate(index.tolist()) if not 0 <= image < len(sizes))
        raise ValueError(f"{OP}: index[{i}] is {image}, and there are {len(sizes)} images")
    of = sizes[index]
    least, most = (bound.tolist() for bound in boxes.aminmax(dim=0))
    # Of large numbers the differences would overflow.
    if min(least[:2]) >= 0 and min(least[2:]) >= 1 and max(most) < MOST_BYTES:
        corners, extents = boxes.split(2, 1)
        if int((of - corners - extents).min()) >= 0:
            return of
    for i, (box, (rows, columns)) in enumerate(zip(boxes.tolist(), of.tolist(), strict=True)):
        top, left, height, width = box
        if min(top, left) < 0 or min(height, width) < 1 or top + height > rows or left + width > columns:
            raise ValueError(
                f"{OP}: boxes[{i}] (top, left, height, width) is {box}, not within its image of {rows} x "
                f"{columns} pixels"
            )
    return of


dispatch.register(OP, "torch", torch_backend.cut)
dispatch.register(OP, "triton", dispatch.later("silc_kernels.crops.triton_backend", "cut"), dispatch.triton_takes(OP))
