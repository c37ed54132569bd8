"""Where views are cut: boxes in images, checked, as places in the bytes of all.

Operators of torch take microseconds each, whatever the size: few views are worked out in plain numbers instead.
"""

import torch
from torch import Tensor

OP = "crop_resize"
MOST_BYTES = 2**31  # of an image: kernels count in 32 bits inside of one
REGION = ("offset", "line", "height", "width", "flip")  # columns of what backends get
FEW = 96  # views and images, up to which plain numbers take less time


def regions(size: int, offsets: Tensor, sizes: Tensor, index: Tensor, boxes: Tensor, flips: Tensor) -> Tensor:
    """-> int64 [n, 5], see REGION. size: bytes there are; the others are those of `ops.crop_resize`.

    Raises:
        ValueError: an image not within the bytes, or a box outside of its image.
    """
    if len(sizes) + len(index) > FEW and min(len(sizes), len(index)) > 0:
        found = _by_tensors(size, offsets, sizes, index, boxes, flips)
        if found is not None:
            return found  # else the numbers say what is wrong
    images = list(zip(offsets.tolist(), sizes.tolist(), strict=True))
    _check_images(size, images)
    owners = index.tolist()
    if owners and (min(owners) < 0 or max(owners) >= len(images)):
        i, image = next((i, image) for i, image in enumerate(owners) if not 0 <= image < len(images))
        raise ValueError(f"{OP}: index[{i}] is {image}, and there are {len(images)} images")
    views = zip([images[image] for image in owners], boxes.tolist(), flips.tolist(), strict=True)
    return torch.tensor([_region(i, *view) for i, view in enumerate(views)], dtype=torch.int64)


def _check_images(size: int, images: list[tuple[int, list[int]]]) -> None:
    for i, (offset, (height, width)) in enumerate(images):
        length = 3 * height * width
        if height < 1 or width < 1 or offset < 0 or length >= MOST_BYTES or offset + length > size:
            raise ValueError(
                f"{OP}: image {i} of {height} x {width} pixels from byte {offset} on is not within the "
                f"{size} bytes of pixels, or of 2 GiB or more; check offsets and sizes"
            )


def _region(i: int, image: tuple[int, list[int]], box: list[int], flip: bool) -> tuple[int, int, int, int, int]:
    (offset, (rows, columns)), (top, left, height, width) = image, box
    if top < 0 or left < 0 or height < 1 or width < 1 or top + height > rows or left + width > columns:
        raise ValueError(
            f"{OP}: boxes[{i}] (top, left, height, width) is {box}, not within its image of {rows} x {columns} pixels"
        )
    return offset + 3 * (top * columns + left), 3 * columns, height, width, int(flip)


def _by_tensors(
    size: int, offsets: Tensor, sizes: Tensor, index: Tensor, boxes: Tensor, flips: Tensor
) -> Tensor | None:
    """None where something is wrong. Each bound comes before the products and sums that would overflow beyond it."""
    least, most = map(int, sizes.aminmax())
    first, last = map(int, offsets.aminmax())
    if least < 1 or most >= MOST_BYTES or first < 0 or last > size:
        return None
    values = sizes.prod(1)
    if int(values.max()) > (MOST_BYTES - 1) // 3 or int((offsets + 3 * values).max()) > size:
        return None
    first, last = map(int, index.aminmax())
    if first < 0 or last >= len(sizes):
        return None
    lows, highs = (bound.tolist() for bound in boxes.aminmax(dim=0))
    if min(lows[:2]) < 0 or min(lows[2:]) < 1 or max(highs) >= MOST_BYTES:
        return None
    of = sizes[index]
    corners, extents = boxes.split(2, 1)
    if int((of - corners - extents).min()) < 0:
        return None
    top, left, height, width = boxes.unbind(1)
    line = 3 * of[:, 1]
    return torch.stack([offsets[index] + top * line + 3 * left, line, height, width, flips.long()], 1)
