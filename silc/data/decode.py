"""Decoding: bytes to images and captions."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from silc.data.shards import Unreadable

_STANDALONE = {0x01, *range(0xD0, 0xDA)}  # JPEG markers without a segment
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers that begin a frame header


def decode_caption(data: bytes | None) -> str:
    """A caption's text, stripped. Raises Unreadable: no data, not utf-8, or blank."""
    if data is None:
        raise Unreadable("no caption")
    try:
        caption = data.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise Unreadable("caption is not utf-8") from None
    if not caption:
        raise Unreadable("empty caption")
    return caption


def decode_image(data: bytes | None, max_pixels: int) -> Tensor:
    """An image's RGB pixels, uint8 [H, W, 3]; transparency is composited on white, 16 bits become 8.

    Raises:
        Unreadable: no data, not decodable, truncated, or of more than `max_pixels` pixels (which the header tells
            before memory is allocated).
    """
    if data is None:
        raise Unreadable("no image")
    # On arbitrary bytes decoders raise nearly any exception; whichever it is, only this one image is unusable.
    try:
        size = _jpeg_size(data)
        if size is None:
            with Image.open(io.BytesIO(data)) as opened:
                _check_size(opened.size, max_pixels)
                return torch.from_numpy(np.array(_rgb(opened)))
        _check_size(size, max_pixels)
        # Twice as fast as Pillow, and it refuses a truncated file.
        encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        return decode_jpeg(encoded, mode=ImageReadMode.RGB).permute(1, 2, 0)
    except Unreadable:
        raise
    except Image.DecompressionBombError:
        raise Unreadable("too many pixels") from None
    except Exception:
        raise Unreadable("undecodable image") from None


def image_pixels(image: Image.Image) -> Tensor:
    """RGB pixels of an opened image, uint8 [H, W, 3], by the same rules. Raises Unreadable, OSError."""
    return torch.from_numpy(np.array(_rgb(image)))


def _rgb(image: Image.Image) -> Image.Image:
    """To RGB. Pillow's own conversion clips 16-bit greys to white, and ignores transparency."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.float64) / 257  # 65535 is white
        return Image.fromarray(values.round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        values = np.asarray(image)
        if not (values.min() >= 0 and values.max() <= 1):
            raise Unreadable("floating-point values beyond 0 to 1")
        return Image.fromarray((values * 255).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        above = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", above.size, "white"), above).convert("RGB")
    return image.convert("RGB")


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise Unreadable("too many pixels")


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) in a JPEG's frame header; None where the data is not a JPEG or its markers are malformed."""
    if data[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _FRAMES:
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in _STANDALONE:
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None
