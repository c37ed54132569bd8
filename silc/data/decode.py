"""Decoding: bytes to images.

Whatever a file holds, decoding it takes bounded time and memory: at most MEMORY times what the pixels that
`data.max_image_pixels` allows need, and no more scans of them than SCANS.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from silc.data import jpeg, pillow
from silc.data.shards import Unreadable

MEMORY = 4  # times 3 bytes a pixel of the limit, and the file itself three times
SCANS = 32  # of as many pixels as the limit allows; smaller images may have more, up to jpeg.SCANS


def decode_image(data: bytes | None, max_pixels: int) -> Tensor:
    """An image's RGB pixels, uint8 [H, W, 3]; transparency is composited on white, 16 bits become 8.

    JPEG, PNG, WebP, GIF, BMP and TIFF are read, of an animation the first frame.

    Raises:
        Unreadable: no data, not decodable, truncated, of more than `max_pixels` pixels, of a longer side than
            pillow.MAX_SIDE, or of more scans than SCANS and jpeg.SCANS allow. What exceeds a limit is not decoded.
    """
    if data is None:
        raise Unreadable("no image")
    # On arbitrary bytes decoders raise nearly any exception; whichever it is, only this one image is unusable.
    try:
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data, max_pixels)
        with pillow.opened(data, max_pixels) as image:
            return image_pixels(image)
    except Unreadable:
        raise
    except Exception:
        raise Unreadable("undecodable image") from None


def image_pixels(image: Image.Image) -> Tensor:
    """RGB pixels of an opened image, uint8 [H, W, 3], by the same rules. Raises Unreadable, OSError."""
    return torch.from_numpy(pillow.in_strips(image, lambda part: np.array(_rgb(part))))


def _jpeg(data: bytes, max_pixels: int) -> Tensor:
    header = jpeg.read_header(data)
    if header is None:
        raise Unreadable("undecodable image")
    pillow.check_size(header.width, header.height, max_pixels)
    if header.scans > jpeg.SCANS or header.scans * header.width * header.height > SCANS * max_pixels:
        raise Unreadable("too many scans")
    # Twice as fast as Pillow, and it refuses a truncated file.
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return decode_jpeg(encoded, mode=ImageReadMode.RGB).permute(1, 2, 0)


def _rgb(image: Image.Image) -> Image.Image:
    """To RGB. Pillow's own conversion clips 16-bit greys to white, and ignores transparency."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).clip(0, 65535).astype(np.int32)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")  # 65535 is white
    if image.mode == "F":
        values = np.asarray(image)
        if not (values.min() >= 0 and values.max() <= 1):
            raise Unreadable("floating-point values beyond 0 to 1")
        return Image.fromarray((values * 255).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        above = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", above.size, "white"), above).convert("RGB")
    return image.convert("RGB")
