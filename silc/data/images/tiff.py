"""Whether a TIFF's layout is one that can be decoded in bounded time and memory, before a decoder reads it.

A TIFF lists where its strips or tiles lie. Readers make an object for each entry of the list and decode each entry,
however often they cover the image.
"""

from __future__ import annotations

import struct

BEGINNINGS = (b"II*\0", b"MM\0*", b"MM*\0", b"II\0*", b"II+\0", b"MM\0+")  # all that Pillow takes for a TIFF
WIDTH, HEIGHT, COMPRESSION, SAMPLES, ROWS, PLANAR = 256, 257, 259, 277, 278, 284
TILE_WIDTH, TILE_HEIGHT = 322, 323
STRIP_OFFSETS, STRIP_SIZES, TILE_OFFSETS, TILE_SIZES = 273, 279, 324, 325
STRIPED, TILED = {ROWS, STRIP_OFFSETS, STRIP_SIZES}, {TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_SIZES}
LISTS = {STRIP_OFFSETS, STRIP_SIZES, TILE_OFFSETS, TILE_SIZES}
READ = STRIPED | TILED | {WIDTH, HEIGHT, COMPRESSION, SAMPLES, PLANAR}
SIMPLE = (1, 5, 8, 32773, 32946)  # none, LZW, deflate, PackBits, deflate by its earlier number
MOST = 1 << 17  # strips or tiles
_TYPES = {3: "H", 4: "I"}  # SHORT, LONG


def covered(data: bytes) -> int | None:
    """How many pixels the first image's strips or tiles have together; None where they do not cover it once, are not
    few, or are packed by a method whose results can be larger than they should be."""
    found = _first_directory(data)
    if found is None:
        return None
    values, counts = found
    width, height = values.get(WIDTH, 0), values.get(HEIGHT, 0)
    if not (width and height and values.get(COMPRESSION, 1) in SIMPLE):
        return None
    tiled = bool(values.keys() & TILED or counts.keys() & TILED)
    if tiled and (values.keys() & STRIPED or counts.keys() & STRIPED):
        return None
    across = values.get(TILE_WIDTH, 0) if tiled else width
    down = values.get(TILE_HEIGHT, 0) if tiled else min(values.get(ROWS, height), height)
    if not (across and down):
        return None
    pieces = -(-width // across) * -(-height // down)
    layers = values.get(SAMPLES, 1) if values.get(PLANAR, 1) == 2 else 1
    if max(counts.values(), default=0) > min(MOST, pieces * layers):
        return None
    return pieces * across * down if tiled else width * height


def _first_directory(data: bytes) -> tuple[dict[int, int], dict[int, int]] | None:
    """Single values by tag, and the lengths of lists by tag; None where readers could take them differently."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:  # BigTIFF among them
        return None
    values: dict[int, int] = {}
    counts: dict[int, int] = {}
    try:
        (start,) = struct.unpack_from(order + "I", data, 4)
        (entries,) = struct.unpack_from(order + "H", data, start)
        for number in range(entries):
            at = start + 2 + 12 * number
            tag, kind, count = struct.unpack_from(order + "HHI", data, at)
            if tag not in READ:
                continue
            if kind not in _TYPES or tag in values or tag in counts:
                return None
            if tag in LISTS:
                counts[tag] = count
            elif count == 1:
                (values[tag],) = struct.unpack_from(order + _TYPES[kind], data, at + 8)
            else:
                return None
    except struct.error:
        return None
    return values, counts
