"""Images made smaller, as img2dataset does it: the shorter side to a number of pixels, never larger."""

from __future__ import annotations

import io

from PIL import Image

from silc.data.images.decode import decode_image


def resized(data: bytes, side: int, quality: int, max_pixels: int) -> bytes | None:
    """An image with a shorter side of `side` pixels, as JPEG: upright, RGB, without the file's EXIF and ICC profile.

    Downscaling is antialiased bicubic. None: the shorter side has no more pixels than that; keep the file as it is.

    Raises Unreadable as :func:`silc.data.images.decode.decode_image`.
    """
    pixels = decode_image(data, max_pixels, upright=True)
    height, width = pixels.shape[:2]
    if min(height, width) <= side:
        return None
    scale = side / min(height, width)
    size = max(side, round(width * scale)), max(side, round(height * scale))
    smaller = Image.fromarray(pixels.contiguous().numpy()).resize(size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    smaller.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
