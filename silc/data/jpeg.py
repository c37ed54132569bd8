"""What a JPEG's decoder will find in its header, before it is asked: size and number of scans."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_PROGRESSIVE = 0xC2
_FRAMES = (0xC0, 0xC1, _PROGRESSIVE)  # by Huffman coding: baseline, extended, progressive
_SCAN = 0xDA
_ALONE = (0x01, *range(0xD0, 0xD8))  # markers without a segment
# With one of these in the header the decoder finds no image: a second start, the end, frames by arithmetic coding or
# without loss.
_NO_IMAGE = (0xD8, 0xD9, *(code for code in range(0xC3, 0xD0) if code not in (0xC4, 0xC8, 0xCC)))
MARKERS = 4096  # before the first scan; cameras and editors write some tens
SCANS = 500  # a progressive image has about ten


class Jpeg(NamedTuple):
    """Width and height in pixels, and the largest number of scans that are decoded."""

    width: int
    height: int
    scans: int


def read_header(data: bytes) -> Jpeg | None:
    """The header as libjpeg reads it, or None where libjpeg finds none that it decodes.

    As in libjpeg, bytes between segments are passed over, a marker follows one or more bytes FF, FF 00 is none, and a
    segment whose length is less than the two bytes that state it is as long as these; a second frame header is refused.
    """
    if data[:2] != b"\xff\xd8":
        return None
    at, kind, frame = 2, 0, b""
    for _ in range(MARKERS):
        at = data.find(b"\xff", at) + 1
        if not at:
            return None
        while data[at : at + 1] == b"\xff":
            at += 1
        code = data[at] if at < len(data) else 0
        at += 1
        if code == 0 or code in _ALONE:
            continue
        if code in _NO_IMAGE or (code in _FRAMES and frame):
            return None
        segment = data[at : at + 8]
        if code == _SCAN:
            return _at_first_scan(data, kind, frame, segment)
        if code in _FRAMES:
            kind, frame = code, segment
        at += max(2, int.from_bytes(segment[:2], "big"))
    return None


def _at_first_scan(data: bytes, kind: int, frame: bytes, scan: bytes) -> Jpeg | None:
    """kind: marker of the frame. frame, scan: the first 8 bytes of their segments."""
    if len(frame) < 8 or len(scan) < 3:
        return None
    height, width = int.from_bytes(frame[3:5], "big"), int.from_bytes(frame[5:7], "big")
    if not (height and width):  # a height that comes after the scan is not supported
        return None
    # A scan of all components that is not progressive is the whole image: nothing after it is read.
    scans = 1 if kind != _PROGRESSIVE and scan[2] == frame[7] else _count_scans(data)
    return Jpeg(width, height, scans)


def _count_scans(data: bytes) -> int:
    """All places that look like the start of a scan: some may lie in a thumbnail, none inside of a scan."""
    codes = np.frombuffer(data, np.uint8)
    return int(np.count_nonzero((codes[:-1] == 0xFF) & (codes[1:] == _SCAN)))
