"""Images that Pillow decodes, within bounds: which kinds of files, how many pixels, how much memory."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from PIL import AvifImagePlugin, Image
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from silc.data.images import avif, tiff
from silc.data.shards import Unreadable

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


class Format(NamedTuple):
    """A format that is read.

    Attributes:
        reader: Pillow's.
        decoders: those of its decoders that are used.
        memory: bytes a pixel that decoding takes at most, the image itself as RGB among them.
    """

    reader: Callable[[io.BytesIO], ImageFile]
    decoders: set[str]
    memory: int


# Readers are called by the first bytes of a file: Pillow has some that start other programs, some whose files state
# another size than they decode to, and a limit of pixels of its own. BMP's run-length code is left out: a few bytes of
# it stand for 255 rows. JPEG is not decoded here.
FORMATS = {
    "PNG": Format(PngImageFile, {"zip"}, 12),
    "WEBP": Format(WebPImageFile, {"raw"}, 24),
    "GIF": Format(_FirstFrame, {"gif"}, 12),
    "BMP": Format(BmpImageFile, {"raw"}, 12),
    "TIFF": Format(TiffImageFile, {"raw", "libtiff"}, 12),
    "AVIF": Format(AvifImageFile, {"raw"}, 36),
}
AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # workers share the cores already


@contextmanager
def opened(data: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """An image file's header read by Pillow; its pixels are not yet decoded.

    Decoding it, and keeping the result as RGB, takes at most the memory that FORMATS states for each of `max_pixels`,
    and three times the file's size. Of an animation it is the first frame.

    Raises:
        Unreadable: more than `max_pixels` pixels, a longer side than MAX_SIDE, another format.
        Exception: nearly any, on data that are no image.
    """
    kind = format_of(data)
    if kind is None:
        raise Unreadable("undecodable image")
    if kind == "TIFF":
        pixels = tiff.covered(data)
        if pixels is None:
            raise Unreadable("undecodable image")
        if pixels > max_pixels:
            raise Unreadable(TOO_MANY)
    if kind == "AVIF":
        still = avif.still(data)
        check_size(still.width, still.height, max_pixels)
        data = still.file
    with FORMATS[kind].reader(_File(data)) as image:
        check_size(*image.size, max_pixels)
        if not {tile[0] for tile in image.tile} <= FORMATS[kind].decoders:
            raise Unreadable("undecodable image")
        yield image


def format_of(data: bytes) -> str | None:
    """The name in FORMATS by a file's first bytes; None for other files."""
    if data[:4] in tiff.BEGINNINGS:
        return "TIFF"
    if data.startswith(b"RIFF"):
        return "WEBP" if data[8:12] == b"WEBP" else None
    if avif.is_avif(data):
        return "AVIF"
    return next((name for name, beginnings in _BEGINNINGS.items() if data.startswith(beginnings)), None)


_BEGINNINGS: dict[str, bytes | tuple[bytes, ...]] = {
    "PNG": b"\x89PNG\r\n\x1a\n",
    "GIF": (b"GIF87a", b"GIF89a"),
    "BMP": b"BM",
}


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
