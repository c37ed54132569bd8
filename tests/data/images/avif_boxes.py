"""AVIF files around one AV1 stream, with lists of pieces, links and properties as a test wants them."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

from silc.data.images import avif

Piece = tuple[int, int]  # offset from the stream's beginning, and length
Link = tuple[bytes, int, Sequence[int]]  # type, item that refers, items that it refers to
Marks = tuple[int, Sequence[int]]  # an item, and its properties by number from 1, 128 more for essential ones
ALPHA = b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0"


def box(name: bytes, *parts: bytes) -> bytes:
    """A box of such content."""
    content = b"".join(parts)
    return struct.pack(">I", 8 + len(content)) + name + content


def parts_of(data: bytes) -> tuple[bytes, list[bytes]]:
    """The stream of a file's image, and the boxes of its properties; what `made` takes."""
    meta = avif._Meta(data)
    return meta.stream(meta.primary), [box(*each) for each in meta.properties(meta.primary).items()]


def made(
    stream: bytes,
    properties: Sequence[bytes],
    *,
    pieces: dict[int, Sequence[Piece]] | None = None,
    links: Sequence[Link] = (),
    marks: Sequence[Marks] | None = None,
    items: Sequence[int] = (1,),
    widths: tuple[int, int] = (4, 4),
) -> bytes:
    """A file whose primary item is 1.

    Args:
        stream: stands before the lists, so that their lengths move nothing.
        properties: boxes.
        pieces: of items; None: of item 1, the whole stream.
        links: between items.
        marks: of items; None: item 1 has all properties.
        items: all of them, of AV1.
        widths: bytes of an offset and of a length: 0, 4 or 8.
    """
    full = bytes(4)
    head = box(b"ftyp", b"avif", full, b"avifmif1miaf")
    start = len(head) + 8
    pieces = {1: [(0, len(stream))]} if pieces is None else pieces
    located = []
    for item, some in pieces.items():
        located.append(struct.pack(">HHH", item, 0, len(some)))
        located += [_number(start + at, widths[0]) + _number(size, widths[1]) for at, size in some]
    marks = [(1, range(1, 1 + len(properties)))] if marks is None else marks
    meta = box(
        b"meta",
        full,
        box(b"hdlr", full, bytes(4), b"pict", bytes(13)),
        box(b"pitm", full, struct.pack(">H", 1)),
        box(b"iloc", full, struct.pack(">BBH", widths[0] << 4 | widths[1], 0, len(pieces)), *located),
        box(b"iinf", full, struct.pack(">H", len(items)), *map(_entry, items)),
        box(b"iref", full, *(_reference(*link) for link in links)),
        box(
            b"iprp",
            box(b"ipco", *properties),
            box(b"ipma", full, struct.pack(">I", len(marks)), *(_marked(*each) for each in marks)),
        ),
    )
    return head + box(b"mdat", stream) + meta


def _number(number: int, width: int) -> bytes:
    return number.to_bytes(8, "big")[8 - width :]


def _entry(item: int) -> bytes:
    return box(b"infe", b"\2\0\0\0", struct.pack(">HH", item, 0), b"av01\0")


def _reference(kind: bytes, item: int, to: Sequence[int]) -> bytes:
    return box(kind, struct.pack(f">HH{len(to)}H", item, len(to), *to))


def _marked(item: int, numbers: Sequence[int]) -> bytes:
    return struct.pack(">HB", item, len(numbers)) + bytes(numbers)


def drawn(data: bytes, rng: random.Random) -> bytes:
    """A file with the image of another, in which the list of pieces, of links, of properties, or none is drawn."""
    stream, properties = parts_of(data)
    size, many = len(stream), rng.choice((1, 2, 60, 70, 4000, 4096, 5000))
    pieces, widths = [(0, size)], (rng.choice((4, 8)), rng.choice((4, 8)))
    ends, marked, times = [1], [len(properties) + 1], 1
    which = rng.choice(("pieces", "links", "properties", "none"))
    if which == "pieces":
        pieces = [(rng.randrange(size), rng.choice((0, 1, size))) for _ in range(many)]
        widths = (rng.choice((0, 4)), rng.choice((0, 0, 4)))
    elif which == "links":
        ends, times = rng.choice(([1], [1, 2], [1] * 64, [1] * 65, [2])), rng.choice((1, 1, 2))
    elif which == "properties":
        marked = rng.choice((marked, [*range(1, len(properties) + 2)], marked * 9, [0] * 255, [99]))
    else:
        many = rng.randrange(3)
    others = range(2, 2 + many)
    kind, name = rng.choice((b"auxl", b"auxl", b"prem", b"thmb")), rng.choice((ALPHA, b"depth\0"))
    return made(
        stream + bytes(rng.choice((0, 0, 50_000))),
        [*properties, box(b"auxC", bytes(4), name, bytes(rng.choice((0, 99, 9999))))],
        pieces={1: pieces, **{item: [(0, size)] for item in others[:9]}},
        links=[(kind, item, ends) for item in others] * times,
        marks=[(1, range(1, len(properties) + 1)), *((item, marked) for item in others)],
        items=[1, *others[:4000]],
        widths=widths,
    )
