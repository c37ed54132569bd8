"""Images that Pillow decodes, within bounds: which kinds of files, how many pixels, how much memory."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image
from PIL.GifImagePlugin import GifImageFile

from silc.data import tiff
from silc.data.shards import Unreadable

# Format -> (decoders that are used, how many times the memory of a plain image its decoder takes). Pillow has readers
# that start other programs, and readers whose files state another size than they decode to. BMP's run-length code is
# left out: a few bytes of it stand for 255 rows. JPEG is not decoded here.
FORMATS = {
    "PNG": ({"zip"}, 1),
    "WEBP": ({"raw"}, 2),
    "GIF": ({"gif"}, 1),
    "BMP": ({"raw"}, 1),
    "TIFF": ({"raw", "libtiff"}, 1),
}
MAX_SIDE = 65_535  # pixels; a JPEG cannot have more
READS = 1 << 17  # from a file; a PNG of 250 MB in chunks of 8 kB, as libpng writes them, takes fewer
STRIP = 1 << 19  # pixels that are converted at a time
TOO_MANY = "too many pixels"


class _File(io.BytesIO):
    """Ends files of millions of empty chunks, comments or blocks: Pillow reads each of them, in microseconds."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > READS:
            raise Unreadable("undecodable image")
        return super().read(size)


class _FirstFrame(GifImageFile):
    """A GIF's first frame. For the frame after it Pillow would fill one of the same size, before any limit is asked."""

    disposal_method = property(lambda self: 0, lambda self, value: None)  # type: ignore[assignment]


@contextmanager
def opened(data: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """An image file's header read by Pillow; its pixels are not yet decoded.

    Decoding it, and keeping the result as RGB, takes at most 12 bytes for each of `max_pixels`, and three times the
    file's size. Of an animation it is the first frame.

    Raises:
        Unreadable: more than `max_pixels` pixels (for WebP half as many), a longer side than MAX_SIDE, another format.
        Exception: nearly any, on data that are no image.
    """
    if data[:4] in tiff.BEGINNINGS and not tiff.fits(data, max_pixels):
        raise Unreadable("undecodable image")
    try:
        gif = data.startswith((b"GIF87a", b"GIF89a"))
        found = _FirstFrame(_File(data)) if gif else Image.open(_File(data), formats=list(FORMATS))
    except Image.DecompressionBombError:  # beyond what Pillow allows
        raise Unreadable(TOO_MANY) from None
    with found as image:
        decoders, weight = FORMATS[str(image.format)]
        check_size(*image.size, max_pixels // weight)
        if not {tile[0] for tile in image.tile} <= decoders:  # type: ignore[attr-defined]
            raise Unreadable("undecodable image")
        yield image


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raises Unreadable for an image of more than `max_pixels` pixels, or of a longer side than MAX_SIDE."""
    if width * height > max_pixels or max(width, height) > MAX_SIDE:
        raise Unreadable(TOO_MANY)


def in_strips(image: Image.Image, convert: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    """convert(image), which treats every pixel alone, computed a few rows at a time for the sake of memory.

    Args:
        image: its pixels are decoded here.
        convert: [h, W] -> [h, W, ...].

    Returns:
        [H, W, ...].
    """
    image.load()
    width, height = image.size
    rows = max(1, STRIP // width)
    if rows >= height:
        return convert(image)
    first = convert(image.crop((0, 0, width, rows)))
    whole = np.empty((height, *first.shape[1:]), dtype=first.dtype)
    whole[:rows] = first
    for top in range(rows, height, rows):
        bottom = min(top + rows, height)
        whole[top:bottom] = convert(image.crop((0, top, width, bottom)))
    return whole
