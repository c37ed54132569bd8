"""What a JPEG's decoder will find in its header, before it is asked: size and number of scans."""

from __future__ import annotations

from typing import NamedTuple

_HUFFMAN_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
_ALONE = (0x01, *range(0xD0, 0xD8))  # markers without a segment
# Where one of these comes first there is no image for the decoder: a second start, the end, a scan without a frame,
# frames by arithmetic coding or without loss.
_NO_IMAGE = (0xD8, 0xD9, 0xDA, *(code for code in range(0xC3, 0xD0) if code not in (0xC4, 0xC8, 0xCC)))
MARKERS = 4096  # before the frame header; cameras and editors write some tens
SCANS = 500  # a progressive image has about ten


class Jpeg(NamedTuple):
    """Width and height in pixels, and the largest number of scans that the file can hold."""

    width: int
    height: int
    scans: int


def read_header(data: bytes) -> Jpeg | None:
    """The header as libjpeg reads it, or None where libjpeg finds none that it decodes.

    As in libjpeg, bytes between segments are passed over, a marker follows one or more bytes FF, FF 00 is none, and a
    segment whose length is less than the two bytes that state it is as long as these. The first frame header holds:
    libjpeg refuses a second one. The scans are all places that look like the start of one, of which some may lie in a
    thumbnail; inside a scan there are none.
    """
    if data[:2] != b"\xff\xd8":
        return None
    at = 2
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
        if code in _NO_IMAGE:
            return None
        if code in _HUFFMAN_FRAMES:
            frame = data[at : at + 7]  # length, bits, height, width
            height, width = int.from_bytes(frame[3:5], "big"), int.from_bytes(frame[5:7], "big")
            return Jpeg(width, height, data.count(b"\xff\xda")) if len(frame) == 7 and width and height else None
        at += max(2, int.from_bytes(data[at : at + 2], "big"))
    return None
