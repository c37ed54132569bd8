"""AVIF images, cut out of their files: the one image that is decoded, its size and its orientation.

An AVIF is a tree of boxes around AV1 streams: images of several tiles, layers, sequences, thumbnails and depth maps.
Readers could disagree on what lies where. So what is understood here, one image and its transparency, is written into
a new file, and the decoder sees nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from silc.data.images import av1
from silc.data.shards import Unreadable

BRANDS = {b"avif", b"avis", b"mif1", b"msf1"}
BOXES = 4096  # in one box
ITEMS = 4096  # in one list, and links between them; a large image of tiles has hundreds
LINKS = 64  # from one item, or to one
_ALPHA = {b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", b"urn:mpeg:hevc:2015:auxid:1"}
_KEPT = {b"pixi", b"av1C", b"colr", b"auxC"}  # properties that the decoder needs, beside the size
_IGNORED = {b"ispe", b"irot", b"imir", b"clap", b"pasp"}  # may be marked as essential
_UNDECODABLE = "undecodable image"
Properties = dict[bytes, bytes]


class Still(NamedTuple):
    """Width and height in pixels, EXIF orientation (1 to 8), and an AVIF of this image and its transparency alone."""

    width: int
    height: int
    orientation: int
    file: bytes


def is_avif(data: bytes) -> bool:
    """Whether data begin as an AVIF, or as another file of this family (HEIC), which :func:`still` refuses."""
    return data[4:8] == b"ftyp" and data[8:12] in BRANDS


def still(data: bytes) -> Still:
    """The primary image; of a sequence that is its first frame.

    Raises Unreadable: damaged, a sequence without a primary image, of several tiles, of several frames (such as layers
    for progressive display), coded by another method than AV1 (HEIC), or of another size than it states.
    """
    try:
        meta = _Meta(data)
        image = meta.stream(meta.primary)
        size = _size(image, meta.properties(meta.primary))
        alpha = meta.alpha()
        layers = [(image, meta.properties(meta.primary))]
        if alpha is not None:
            layers.append((meta.stream(alpha), meta.properties(alpha)))
            if _size(*layers[1]) != size:
                raise ValueError("transparency of another size")
            if len(image) + len(layers[1][0]) > len(data):
                raise ValueError("transparency in the bytes of the image")
        return Still(*size, meta.orientation(), _file(layers, size, premultiplied=meta.premultiplied(alpha)))
    except av1.SeveralFrames:
        raise Unreadable("AVIF of several frames") from None
    except (ValueError, KeyError, struct.error, IndexError):
        raise Unreadable(_UNDECODABLE) from None


def orientation(data: bytes) -> int:
    """Of the primary image, from its properties: an EXIF orientation, 1 to 8. 1 where the file is damaged."""
    try:
        return _Meta(data).orientation()
    except (Unreadable, ValueError, KeyError, struct.error, IndexError):
        return 1


def _size(stream: bytes, properties: Properties) -> tuple[int, int]:
    size = av1.frame_size(stream)
    if struct.unpack(">II", properties[b"ispe"][4:12]) != size:
        raise ValueError("another size than stated")
    return size


class _Meta:
    """The box that lists items; what it says of them is found when asked.

    Raises Unreadable for files without a still image, and on damage ValueError, KeyError, IndexError or struct.error.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._boxes = _named(data, *_only(data, b"meta", 0, len(data)), skip=4)
        if b"pitm" not in self._boxes:
            raise Unreadable("AVIF without a primary item")
        start, _ = self._boxes[b"pitm"]
        self.primary = _number(data, start + 4, 2 if data[start] == 0 else 4)
        self._kinds = dict(_item_kinds(data, *self._boxes[b"iinf"]))
        self._links = list(_links(data, *self._boxes[b"iref"])) if b"iref" in self._boxes else []
        self._properties = _Properties(data, *self._boxes[b"iprp"])

    def stream(self, item: int) -> bytes:
        """The AV1 stream of an item. Raises Unreadable for another kind of item."""
        kind = self._kinds.get(item)
        if kind == b"grid":
            raise Unreadable("AVIF of several tiles")
        if kind != b"av01":
            raise Unreadable(_UNDECODABLE)
        return _located(self._data, self._boxes, item)

    def alpha(self) -> int | None:
        """The item with the transparency of the primary one."""
        beside = dict.fromkeys(start for kind, start, ends in self._links if kind == b"auxl" and self.primary in ends)
        if len(beside) > LINKS:
            raise ValueError("too many links")
        named = (item for item in beside if self.properties(item).get(b"auxC", b"")[4:204].split(b"\0")[0] in _ALPHA)
        return next(named, None)

    def premultiplied(self, alpha: int | None) -> bool:
        return any(kind == b"prem" and start == self.primary and alpha in ends for kind, start, ends in self._links)

    def properties(self, item: int) -> Properties:
        """Of an item, by name. Raises ValueError for one that must be understood and is not."""
        return self._properties.of(item)

    def orientation(self) -> int:
        """First turned anti-clockwise by the quarters of `irot`, then mirrored: top to bottom, or left to right."""
        properties = self.properties(self.primary)
        quarters = properties.get(b"irot", b"\0")[0] & 3
        mirrored = (properties[b"imir"][0] & 1) + 1 if b"imir" in properties else 0
        return _ORIENTATIONS[mirrored][quarters]


# Not mirrored, mirrored top to bottom, left to right: EXIF orientations, by the number of quarters.
_ORIENTATIONS = ((1, 8, 3, 6), (4, 5, 2, 7), (2, 7, 4, 5))


def _number(data: bytes, at: int, size: int) -> int:
    """Of `size` bytes, 0 to 8. Raises ValueError beyond the end."""
    if at + size > len(data):
        raise ValueError("cut short")
    return int.from_bytes(data[at : at + size], "big")


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of the content of each box. Raises ValueError where they do not fill the space."""
    for _ in range(BOXES):
        if at == end:
            return
        size, start = _number(data, at, 4), at + 8
        if size == 1:
            size, start = _number(data, at + 8, 8), at + 16
        elif size == 0:
            size = end - at
        if not start - at <= size <= end - at:
            raise ValueError("a box of another size")
        yield data[at + 4 : at + 8], start, at + size
        at += size
    raise ValueError("too many boxes")


def _only(data: bytes, name: bytes, at: int, end: int) -> tuple[int, int]:
    """Start and end of the first box of this name; what follows is not looked at. Raises ValueError for none."""
    for found, start, stop in _boxes(data, at, end):
        if found == name:
            return start, stop
    raise ValueError("no such box")


def _named(data: bytes, at: int, end: int, skip: int) -> dict[bytes, tuple[int, int]]:
    """Start and end of boxes by name. Raises ValueError for two of a name."""
    found: dict[bytes, tuple[int, int]] = {}
    for name, start, stop in _boxes(data, at + skip, end):
        if name in found and name not in (b"free", b"skip", b"uuid"):
            raise ValueError("two boxes of a name")
        found[name] = (start, stop)
    return found


def _item_kinds(data: bytes, at: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Items and their types."""
    for name, start, _ in _boxes(data, at + (6 if data[at] == 0 else 8), end):
        if name == b"infe" and data[start] in (2, 3):
            wide = 2 if data[start] == 2 else 4
            protected = _number(data, start + 4 + wide, 2)
            yield _number(data, start + 4, wide), b"" if protected else data[start + 6 + wide : start + 10 + wide]


def _links(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, list[int]]]:
    """Of the types that matter here: type, item that refers, items that it refers to."""
    wide, total = 2 if data[at] == 0 else 4, 0
    for name, start, _ in _boxes(data, at + 4, end):
        if name not in (b"auxl", b"prem"):
            continue
        count = _number(data, start + wide, 2)
        total += count
        if count > LINKS or total > ITEMS:
            raise ValueError("too many links")
        first = start + wide + 2
        yield name, _number(data, start, wide), [_number(data, first + wide * i, wide) for i in range(count)]


def _located(data: bytes, boxes: dict[bytes, tuple[int, int]], item: int) -> bytes:
    """The content of an item: pieces of the file, or of the box `idat`, together not larger than the file."""
    at, _ = boxes[b"iloc"]
    version, widths, more = data[at], data[at + 4], data[at + 5]
    offset, length, base, index = widths >> 4, widths & 15, more >> 4, more & 15 if version else 0
    wide = 4 if version == 2 else 2
    count, at = _number(data, at + 6, wide), at + 6 + wide
    if version > 2 or count > ITEMS:
        raise ValueError("another list")
    for _ in range(count):
        number, at = _number(data, at, wide), at + wide
        method = _number(data, at, 2) & 15 if version else 0
        at += 2 if version else 0
        elsewhere, start, pieces = _number(data, at, 2), _number(data, at + 2, base), _number(data, at + 2 + base, 2)
        at += 4 + base
        step = index + offset + length
        if number == item:
            if elsewhere or method > 1 or pieces > ITEMS:
                raise ValueError("in another file")
            begin, end = boxes[b"idat"] if method else (0, len(data))
            places = [at + step * i + index for i in range(pieces)]
            starts = [begin + start + _number(data, place, offset) for place in places]
            sizes = [_number(data, place + offset, length) for place in places]
            stops = [s + size if length else end for s, size in zip(starts, sizes, strict=True)]
            spans = list(zip(starts, stops, strict=True))
            if any(not s <= stop <= end for s, stop in spans) or sum(stops) - sum(starts) > len(data):
                raise ValueError("beyond the file, or larger than it")
            return b"".join(data[s:stop] for s, stop in spans)
        at += step * pieces
    raise ValueError("nowhere")


class _Properties:
    """The properties of all items: read once, since many items may be asked for theirs.

    Raises ValueError, KeyError or IndexError on damage, here and in `of`.
    """

    def __init__(self, data: bytes, at: int, end: int) -> None:
        both = _named(data, at, end, skip=0)
        known = _boxes(data, *both[b"ipco"]) if b"ipco" in both else ()
        self._known = [(name, data[start:stop]) for name, start, stop in known]
        self._data = data
        self._places, self._size = _associated(data, *both[b"ipma"]) if b"ipma" in both else ({}, 1)

    def of(self, item: int) -> Properties:
        """Of an item, by name. Raises ValueError for one that must be understood and is not."""
        found: Properties = {}
        top = 1 << 8 * self._size - 1
        for place in self._places.get(item, ()):
            value = _number(self._data, place, self._size)
            number, essential = value & top - 1, bool(value & top)
            if number == 0:
                continue
            name, content = self._known[number - 1]
            if name not in _KEPT | _IGNORED:
                if essential:
                    raise ValueError("a property that must be understood")
                continue
            if name in found and name != b"colr":
                raise ValueError("a property twice")
            if name != b"colr" or content.startswith(b"nclx"):  # a profile is ignored, as in all formats
                found[name] = content
        return found


def _associated(data: bytes, at: int, end: int) -> tuple[dict[int, range], int]:
    """Where the numbers of each item's properties stand, and the bytes of a number. Raises ValueError."""
    wide, size = 2 if data[at] == 0 else 4, 2 if data[at + 3] & 1 else 1
    count, at = _number(data, at + 4, 4), at + 8
    if count > ITEMS:
        raise ValueError("too many items")
    found: dict[int, range] = {}
    for _ in range(count):
        item, several = _number(data, at, wide), _number(data, at + wide, 1)
        at += wide + 1
        if item in found:
            raise ValueError("an item twice")
        found[item] = range(at, at + several * size, size)
        at += several * size
        if at > end:
            raise ValueError("cut short")
    return found, size


def _box(name: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">I", 8 + len(content)) + name + content


def _file(layers: list[tuple[bytes, Properties]], size: tuple[int, int], *, premultiplied: bool) -> bytes:
    """An AVIF of an image, and its transparency as a second layer."""
    numbers = range(1, len(layers) + 1)
    full = bytes(4)  # version and flags
    own: list[bytes] = []
    listed = []
    for _, properties in layers:
        kept = {b"ispe": full + struct.pack(">II", *size)}
        kept |= {name: properties[name] for name in sorted(_KEPT) if name in properties}
        kept[b"av1C"] = properties[b"av1C"][:4]  # without OBUs
        first = len(own) + 1
        own += [_box(name, content) for name, content in kept.items()]
        marks = [first + i | (0x80 if name == b"av1C" else 0) for i, name in enumerate(kept)]
        listed.append(bytes([len(marks), *marks]))
    entries = [_box(b"infe", b"\2\0\0\0", struct.pack(">HH", number, 0), b"av01\0") for number in numbers]
    links = [_box(b"auxl", struct.pack(">HHH", 2, 1, 1))] if len(layers) == 2 else []
    links += [_box(b"prem", struct.pack(">HHH", 1, 1, 2))] if links and premultiplied else []
    head = _box(b"ftyp", b"avif", full, b"avifmif1miaf")

    def meta(places: list[int]) -> bytes:
        spans = zip(numbers, places, layers, strict=True)
        located = [struct.pack(">HHHII", number, 0, 1, place, len(layer[0])) for number, place, layer in spans]
        parts = (
            _box(b"hdlr", full, bytes(4), b"pict", bytes(13)),
            _box(b"pitm", full, struct.pack(">H", 1)),
            _box(b"iloc", full, struct.pack(">BBH", 0x44, 0, len(layers)), *located),
            _box(b"iinf", full, struct.pack(">H", len(layers)), *entries),
            _box(b"iref", full, *links) if links else b"",
            _box(
                b"iprp",
                _box(b"ipco", *own),
                _box(
                    b"ipma",
                    full,
                    struct.pack(">I", len(layers)),
                    *(struct.pack(">H", number) + marks for number, marks in zip(numbers, listed, strict=True)),
                ),
            ),
        )
        return _box(b"meta", full, *parts)

    at = len(head) + len(meta([0] * len(layers))) + 8
    places = [at + sum(len(stream) for stream, _ in layers[:number]) for number in range(len(layers))]
    return head + meta(places) + _box(b"mdat", *(stream for stream, _ in layers))
