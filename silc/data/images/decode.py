"""Decoding: bytes to images.

Whatever a file holds, decoding it takes bounded time and memory: for each pixel that `data.max_image_pixels` allows at
most 12 bytes (WebP 24, AVIF 36: pillow.FORMATS), three times the file's size, and no more scans than SCANS.
"""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from silc.data.images import exif, jpeg, pillow, tiff
from silc.data.shards import Unreadable

JPEG_MEMORY = 12  # bytes a pixel that decoding a JPEG takes at most
SCANS = 32  # of as many pixels as the limit allows; smaller images may have more, up to jpeg.SCANS


def decode_image(data: bytes | None, max_pixels: int, *, upright: bool = False) -> Tensor:
    """An image's RGB pixels, uint8 [H, W, 3]; transparency is composited on white, 16 bits become 8.

    JPEG, PNG, WebP, GIF, BMP, TIFF and AVIF are read, of an animation the first frame, of several pages the first. Of
    JPEG the pixels are torchvision's, of the others Pillow's. Color profiles (ICC) are ignored, as by both: values
    are taken for sRGB. CMYK is converted by formula, with the inversion that Adobe writes.

    Args:
        data: the file.
        max_pixels: larger images are refused.
        upright: turn the image as its EXIF orientation says, which viewers do; False: the pixels as they are stored,
            which open_clip and torchvision use. A TIFF's are turned in any case, as by Pillow and all that use it.

    Raises:
        Unreadable: no data, not decodable, truncated, of more than `max_pixels` pixels, of a longer side than
            pillow.MAX_SIDE, or of more scans than SCANS and jpeg.SCANS allow. What exceeds a limit is not decoded.
    """
    if data is None:
        raise Unreadable("no image")
    # On arbitrary bytes decoders raise nearly any exception; whichever it is, only this one image is unusable.
    try:
        if data.startswith(b"\xff\xd8"):
            header = _header(data, max_pixels)
            pixels = _jpeg(data, header)
            return exif.turned(pixels, exif.of_block(header.exif)) if upright else pixels
        with pillow.opened(data, max_pixels) as image:
            pixels = image_pixels(image)
        return exif.turned(pixels, stored_orientation(data)) if upright else pixels
    except Unreadable:
        raise
    except Image.DecompressionBombError:  # beyond what Pillow allows, whatever our own limit
        raise Unreadable(pillow.TOO_MANY) from None
    except Exception:
        raise Unreadable("undecodable image") from None


def stored_orientation(data: bytes) -> int:
    """How the pixels that `decode_image` returns are to be turned to stand upright: an EXIF orientation, 1 to 8."""
    return exif.STORED if data[:4] in tiff.BEGINNINGS else exif.orientation(data)


def image_pixels(image: Image.Image) -> Tensor:
    """RGB pixels of an opened image, uint8 [H, W, 3], by the same rules. Raises Unreadable, OSError."""
    return torch.from_numpy(pillow.in_strips(image, lambda part: np.array(_rgb(part))))


def _header(data: bytes, max_pixels: int) -> jpeg.Jpeg:
    """Raises Unreadable for what is not to be decoded."""
    header = jpeg.read_header(data)
    if header is None:
        raise Unreadable("undecodable image")
    pillow.check_size(header.width, header.height, max_pixels)
    if header.scans > jpeg.SCANS or header.scans * header.width * header.height > SCANS * max_pixels:
        raise Unreadable("too many scans")
    return header


def _jpeg(data: bytes, header: jpeg.Jpeg) -> Tensor:
    if header.alike:
        with suppress(ValueError):  # the least oddity, such as a wrong length, which torchvision may well accept
            return torch.from_numpy(simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False, strict=True))
    # Nearly as fast, and it refuses a truncated file, but nothing else that can be decoded.
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
