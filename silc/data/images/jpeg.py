"""What a JPEG's decoder will find in its header, before it is asked: size, number of scans, EXIF data."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

_PROGRESSIVE = 0xC2
FRAMES = {0xC0, 0xC1, _PROGRESSIVE}  # by Huffman coding: baseline, extended, progressive
SCAN = 0xDA
_APP1, _EXIF = 0xE1, b"Exif\0\0"
_ALONE = {0x01, *range(0xD0, 0xD8)}  # markers without a segment
# With one of these in the header the decoder finds no image: a second start, the end, frames by arithmetic coding or
# without loss.
_NO_IMAGE = {0xD8, 0xD9, *range(0xC3, 0xD0)} - {0xC4, 0xC8, 0xCC}
MARKERS = 4096  # before the first scan; cameras and editors write some tens
SCANS = 500  # a progressive image has about ten
# Sampling factors of the components: 4:4:4, 4:2:2, 4:2:0, 4:1:1, and grey, of which they change nothing.
_ALIKE = {(luma, 0x11, 0x11) for luma in (0x11, 0x21, 0x22, 0x41)} | {(0x11,), (0x21,), (0x22,)}


class Jpeg(NamedTuple):
    """What a header states.

    Attributes:
        width, height: in pixels.
        scans: the largest number of them that are decoded.
        exif: the first EXIF segment; b"" where there is none.
        alike: whether all versions of libjpeg-turbo from 2.0 on decode it to the same pixels: a baseline scan of all
            components, grey or in colour, of usual sampling. In 4:4:0, in progressive images whose last scans are
            missing and in conversions of CMYK they differ.
    """

    width: int
    height: int
    scans: int
    exif: bytes
    alike: bool


def read_header(data: bytes) -> Jpeg | None:
    """The header as libjpeg reads it, or None where libjpeg finds none that it decodes.

    As in libjpeg, bytes between segments are passed over, a marker follows one or more bytes FF, FF 00 is none, and a
    segment whose length is less than the two bytes that state it is as long as these; a second frame header is refused.
    """
    if data[:2] != b"\xff\xd8":
        return None
    kind, frame, exif = 0, 0, b""
    for code, at, stop in segments(data):
        if code in _NO_IMAGE:
            return None
        if code == SCAN:
            return _at_first_scan(data, kind, frame, at, exif)
        if code in FRAMES:
            if frame:
                return None
            kind, frame = code, at
        if code == _APP1 and not exif and data.startswith(_EXIF, at + 2):
            exif = data[at + 2 : stop]
    return None


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of the segments up to the first scan's, as `read_header` finds them, at most MARKERS.

    A segment begins with its length, of two bytes, which are within the data; its end may be beyond them.
    """
    at, end = 2, len(data) - 1
    for _ in range(MARKERS):
        at = data.find(b"\xff", at) + 1
        if not at:
            return
        while at < end and data[at] == 0xFF:
            at += 1
        if at + 2 > end:
            return
        code = data[at]
        at += 1
        if code == 0 or code in _ALONE:
            continue
        stop = at + max(2, data[at] << 8 | data[at + 1])
        yield code, at, stop
        if code == SCAN:
            return
        at = stop


def _at_first_scan(data: bytes, kind: int, frame: int, scan: int, exif: bytes) -> Jpeg | None:
    """kind: marker of the frame. frame, scan: where their segments begin; 0: there is no frame."""
    if not frame or len(data) < max(frame + 8, scan + 3):
        return None
    _, bits, height, width, components = struct.unpack_from(">HBHHB", data, frame)
    if not (height and width):  # a height that comes after the scan is not supported
        return None
    # A scan of all components that is not progressive is the whole image: nothing after it is read.
    whole = kind != _PROGRESSIVE and data[scan + 2] == components
    sampling = tuple(data[frame + 9 : frame + 8 + 3 * components : 3])
    alike = whole and bits == 8 and sampling in _ALIKE
    return Jpeg(width, height, 1 if whole else _count_scans(data), exif, alike)


def _count_scans(data: bytes) -> int:
    """All places that look like the start of a scan: some may lie in a thumbnail, none inside of a scan."""
    codes = np.frombuffer(data, np.uint8)
    return int(np.count_nonzero((codes[:-1] == 0xFF) & (codes[1:] == SCAN)))
