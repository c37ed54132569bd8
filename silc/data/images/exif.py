"""How a picture is to be turned: the orientation in its EXIF data, found without a decoder.

Cameras store the sensor's rows and note how the camera was held; viewers turn the image accordingly.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import torch
from torch import Tensor

from silc.data.images import avif, jpeg, tiff

STORED = 1  # the pixels stand as they are to be shown
ORIENTATION = 274  # the tag
ENTRIES = 4096  # of a directory that are looked at; cameras write some tens
CHUNKS = 1 << 16  # of a PNG or WebP; pillow.READS ends the decoding of files with more
# SHORT, as the standard has it, and LONG, which some write -> how many an entry itself holds; the first one counts.
_TYPES = {3: ("H", 2), 4: ("I", 1)}
_PREFIX = b"Exif\0\0"
_PNG, _EXIF_FLAG = b"\x89PNG\r\n\x1a\n", 8


def orientation(data: bytes) -> int:
    """The EXIF orientation of an image file, 1 to 8; 1 where there is none, where it is damaged, or no EXIF value.

    Of a JPEG its first EXIF segment is read, of a PNG and a WebP the EXIF chunk, of a TIFF its first directory; an
    AVIF's is that of its properties `irot` and `imir`, since its EXIF data do not count. XMP does not count either.
    Never raises. Takes microseconds, for a file of many thousand chunks some ten milliseconds.
    """
    if data.startswith(b"\xff\xd8"):
        header = jpeg.read_header(data)
        return STORED if header is None else of_block(header.exif)
    if data.startswith(_PNG):
        return _of_png(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _of_webp(data)
    if data[:4] in tiff.BEGINNINGS:
        return of_block(data)
    return avif.orientation(data) if avif.is_avif(data) else STORED


def of_block(block: bytes) -> int:
    """Of EXIF data, which are a TIFF without an image, with or without the word "Exif" before; see `orientation`."""
    block = block.removeprefix(_PREFIX)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        return STORED
    found = STORED
    try:
        (start,) = struct.unpack_from(order + "I", block, 4)
        (entries,) = struct.unpack_from(order + "H", block, start)
        for at in range(start + 2, start + 2 + 12 * min(entries, ENTRIES), 12):
            tag, kind, count = struct.unpack_from(order + "HHI", block, at)
            form, most = _TYPES.get(kind, ("", 0))
            if tag == ORIENTATION and 1 <= count <= most:
                (found,) = struct.unpack_from(order + form, block, at + 8)
    except struct.error:  # cut short: what stands before the cut is read
        pass
    return found if found in range(1, 9) else STORED


def turned(image: Tensor, number: int) -> Tensor:
    """Pixels [H, W, 3] as they are to be shown, from the stored ones and their orientation.

    Returns:
        Contiguous, [W, H, 3] for orientations 5 to 8; `image` itself for 1.
    """
    if flips := _FLIPS[number]:
        image = torch.flip(image, flips)
    return image.transpose(0, 1).contiguous() if number >= 5 else image.contiguous()


# Orientation -> the axes that are reversed; from 5 on rows and columns then change places.
_FLIPS: dict[int, tuple[int, ...]] = {1: (), 2: (1,), 3: (0, 1), 4: (0,), 5: (), 6: (0,), 7: (0, 1), 8: (1,)}


def _of_png(data: bytes) -> int:
    for name, start, size in _chunks(data, len(_PNG), ">I4s", after=4):
        if name == b"eXIf":
            return of_block(data[start : start + size])
        if name == b"IEND":
            break
    return STORED


def _of_webp(data: bytes) -> int:
    for name, start, size in _chunks(data, 12, "<4sI", after=0):
        if start == 20 and not (name == b"VP8X" and data[start : start + 1] and data[start] & _EXIF_FLAG):
            return STORED  # only the extended format has EXIF data, and says so
        if name == b"EXIF":
            return of_block(data[start : start + size])
    return STORED


def _chunks(data: bytes, at: int, header: str, after: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and size of the first CHUNKS chunks from `at`, `after` bytes apart; in RIFF sizes are made even."""
    for _ in range(CHUNKS):
        if at + 8 > len(data):
            return
        first, second = struct.unpack_from(header, data, at)
        name, size = (first, second) if isinstance(first, bytes) else (second, first)
        yield name, at + 8, size
        at += 8 + size + after + (size & 1 if header.startswith("<") else 0)
