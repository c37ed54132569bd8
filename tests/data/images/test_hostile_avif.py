"""The lists of an AVIF, however long, take no more memory and work than its size accounts for."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress

import numpy as np
import pytest

from silc.data.images import avif
from silc.data.images.decode import decode_image
from silc.data.shards import Unreadable
from tests.data.images import avif_boxes
from tests.data.images.hostile import DEFAULT, noise, refuses
from tests.data.images.image_fuzz import encode

FILE = encode(noise(97, 61), "AVIF")
STREAM, PROPERTIES = avif_boxes.parts_of(FILE)
AUXILIARY = avif_boxes.box(b"auxC", bytes(4), b"depth\0")


def peak(data: bytes) -> int:
    """Bytes that are held at most while a file is refused or cut out."""
    tracemalloc.start()
    try:
        avif.orientation(data)
        with suppress(Unreadable):
            avif.still(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def steps(data: bytes, monkeypatch) -> int:
    """How many numbers and boxes are read until a file is refused or cut out."""
    count = 0
    number, boxes = avif._number, avif._boxes

    def counted(*words):
        nonlocal count
        count += 1
        return number(*words)

    def each(*words):
        nonlocal count
        for found in boxes(*words):
            count += 1
            yield found

    with monkeypatch.context() as patch:
        patch.setattr(avif, "_number", counted)
        patch.setattr(avif, "_boxes", each)
        with suppress(Unreadable):
            avif.still(data)
    return count


def test_a_file_of_such_lists_is_decoded():
    """So that the others are refused for what they lie about."""
    expected = decode_image(FILE, DEFAULT)
    half = len(STREAM) // 2
    for widths in ((4, 4), (8, 8), (8, 4)):
        for pieces in ([(0, len(STREAM))], [(0, half), (half, len(STREAM) - half)]):
            data = avif_boxes.made(STREAM, PROPERTIES, pieces={1: pieces}, widths=widths)
            assert np.array_equal(decode_image(data, DEFAULT), expected)


@pytest.mark.parametrize("size", [0, 1])
def test_pieces_without_a_length_count_to_the_end_of_the_file(monkeypatch, size):
    """Of 200 KB, 4096 pieces that each went on to the end took 780 MB."""
    stream = STREAM + bytes(200_000)
    for pieces in ([(size, 0)] * avif.ITEMS, [(0, 0)] * 2):
        data = avif_boxes.made(stream, PROPERTIES, pieces={1: pieces}, widths=(4, 0))
        assert peak(data) < 4 * len(data)
        refuses(data, "undecodable image", monkeypatch)


def test_a_piece_that_begins_behind_the_file_does_not_make_room_for_others(monkeypatch):
    pieces = [(1 << 31, 0)] * 100 + [(0, 0)] * 3000
    data = avif_boxes.made(STREAM + bytes(100_000), PROPERTIES, pieces={1: pieces}, widths=(4, 0))
    assert peak(data) < 4 * len(data)
    refuses(data, "undecodable image", monkeypatch)


def flood(count: int) -> bytes:
    """Auxiliary images of the primary one, none of which is its transparency, and properties without a use."""
    items = range(2, 2 + count)
    properties = [*PROPERTIES, AUXILIARY, *[avif_boxes.box(b"free")] * 2000]
    own = list(range(1, len(PROPERTIES) + 1))
    marks = [(1, own), *((item, [len(PROPERTIES) + 1]) for item in items)]
    links = [(b"auxl", item, [1]) for item in items]
    return avif_boxes.made(STREAM, properties, links=links, marks=marks, items=[1, *items])


def test_properties_are_read_once_for_all_auxiliary_images(monkeypatch):
    """Of 103 KB, 4096 of them took 35 s."""
    assert np.array_equal(decode_image(flood(avif.LINKS), DEFAULT), decode_image(FILE, DEFAULT))
    for count in (avif.LINKS, avif.LINKS + 1, 2000, avif.ITEMS - 1):
        data = flood(count)
        assert steps(data, monkeypatch) < len(data) // 2, count
    refuses(flood(avif.LINKS + 1), "undecodable image", monkeypatch)


def test_links_and_shared_properties_are_bounded(monkeypatch):
    links = [(b"prem", item, [9] * avif.LINKS) for item in range(avif.ITEMS // avif.LINKS)]
    assert avif.still(avif_boxes.made(STREAM, PROPERTIES, links=links)).width == 97
    refuses(avif_boxes.made(STREAM, PROPERTIES, links=[*links, (b"prem", 5, [9])]), "undecodable image", monkeypatch)
    refuses(avif_boxes.made(STREAM, PROPERTIES, links=[(b"prem", 1, [9] * 65)]), "undecodable image", monkeypatch)
    large = avif_boxes.box(b"auxC", bytes(4), b"depth\0", bytes(200_000))
    items = range(2, 2 + avif.LINKS)
    marks = [(1, range(1, len(PROPERTIES) + 1)), *((item, [len(PROPERTIES) + 1]) for item in items)]
    data = avif_boxes.made(
        STREAM, [*PROPERTIES, large], links=[(b"auxl", item, [1]) for item in (*items, 99)], marks=marks
    )
    assert peak(data) < 4 * len(data)


def test_an_item_whose_properties_are_listed_twice_is_refused(monkeypatch):
    """As by libavif; readers could take either list."""
    own = range(1, len(PROPERTIES) + 1)
    refuses(avif_boxes.made(STREAM, PROPERTIES, marks=[(1, own), (1, [])]), "undecodable image", monkeypatch)


@pytest.mark.parametrize("copies", [1, 2])
def test_transparency_has_bytes_of_its_own(copies):
    """Two layers that share their bytes would be held twice."""
    alpha = avif_boxes.box(b"auxC", bytes(4), b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0")
    own = len(PROPERTIES)
    stream = STREAM + bytes([0x7A, 0xFF, 0xFF, 0x03]) + bytes(0xFFFF)  # an OBU of padding: most of the file
    data = avif_boxes.made(
        stream * copies,
        [*PROPERTIES, alpha],
        pieces={1: [(0, len(stream))], 2: [((copies - 1) * len(stream), len(stream))]},
        links=[(b"auxl", 2, [1])],
        marks=[(1, range(1, own + 1)), (2, range(1, own + 2))],
        items=[1, 2],
    )
    if copies == 2:
        assert avif.still(data).file
        return
    with pytest.raises(Unreadable, match="undecodable image"):
        avif.still(data)
