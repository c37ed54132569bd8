"""The EXIF orientation is the one that Pillow finds, and images are turned as Pillow turns them."""

from __future__ import annotations

import contextlib
import io
import itertools
import struct

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from silc.data import build_loader
from silc.data.images import exif
from silc.data.images.decode import decode_image
from silc.data.shards import Unreadable
from tests.data.images.image_fuzz import encode

KINDS = ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")


def photo(number: int | None, kind: str, **options: object) -> bytes:
    """A file with an orientation, or with none. No two of its turns look the same."""
    values = np.zeros((24, 40, 3), np.uint8)
    values[:8, :16, 0], values[16:, :, 1], values[:, 32:, 2] = 250, 200, 150
    tags = Image.Exif()
    tags[0x010F] = "maker"
    if number is not None:
        tags[exif.ORIENTATION] = number
    return encode(Image.fromarray(values), kind, exif=tags.tobytes(), **options)


def shown(data: bytes) -> np.ndarray:
    """As a viewer shows it."""
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")).astype(int)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", range(1, 9))
def test_images_stand_as_viewers_show_them(kind, number):
    data = photo(number, kind)
    found = decode_image(data, 10**6, upright=True)
    expected = shown(data)
    assert exif.orientation(data) == number
    assert found.is_contiguous()
    assert found.shape == expected.shape
    assert np.abs(found.numpy().astype(int) - expected).max() <= 3
    stored = decode_image(data, 10**6)
    assert torch.equal(stored, decode_image(data, 10**6, upright=False))
    if kind == "TIFF":  # Pillow's own readers turn it, so that no one sees it otherwise
        assert torch.equal(stored, found)
    else:
        assert torch.equal(stored, decode_image(photo(1, kind), 10**6))


@pytest.mark.parametrize("kind", ["GIF", "BMP", *KINDS])
def test_images_without_an_orientation_stay(kind):
    data = photo(None, kind) if kind in KINDS else encode(Image.new("RGB", (7, 5)), kind)
    assert exif.orientation(data) == 1
    assert torch.equal(decode_image(data, 10**6, upright=True), decode_image(data, 10**6))


def block(order: str, entries: list[tuple[int, int, int, int]], start: int, stated: int | None) -> bytes:
    """EXIF data: a directory of (tag, type, count, value) at `start`, which states that it has `stated` entries."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    body = struct.pack(order + "H", len(entries) if stated is None else stated)
    for tag, kind, count, value in entries:
        form = {1: "B3x", 3: "H2x"}.get(kind, "I")
        body += struct.pack(f"{order}HHI{form}", tag, kind, count, value % 256 if kind == 1 else value)
    return head.ljust(start, b"\0") + body + bytes(4)


ENTRY = st.tuples(
    st.sampled_from([exif.ORIENTATION, 271, 306]),
    st.sampled_from([1, 3, 4]),
    st.sampled_from([1, 1, 1, 2]),
    st.integers(0, 12) | st.just(65_535),
).filter(lambda entry: entry[1:3] != (4, 2))  # two LONG lie elsewhere
BLOCKS = st.builds(
    block,
    st.sampled_from("<>"),
    st.lists(ENTRY, max_size=3, unique_by=lambda e: e[0]),
    st.integers(8, 30),
    st.sampled_from([None, None, 1, 4]),
)


def wrapped(kind: str, data: bytes) -> bytes:
    """An image file around EXIF data, as they are."""
    if kind == "WEBP":
        return encode(Image.new("RGB", (6, 4)), kind, exif=data)
    return encode(Image.new("RGB", (6, 4)), kind, exif=b"Exif\0\0" + data)


@given(kind=st.sampled_from(["JPEG", "PNG", "WEBP"]), data=BLOCKS)
@settings(max_examples=400, deadline=None)
@pytest.mark.filterwarnings("ignore")  # Pillow's, of directories cut short
def test_an_orientation_is_read_as_pillow_reads_it(kind, data):
    file = wrapped(kind, data)
    found = Image.open(io.BytesIO(file)).getexif().get(exif.ORIENTATION, 1)
    expected = found if type(found) is int and 1 <= found <= 8 else 1
    assert exif.orientation(file) == exif.of_block(data) == expected


@given(
    file=st.sampled_from([photo(6, kind) for kind in KINDS]),
    flips=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=3),
    cut=st.integers(0, 400) | st.none(),
)
@example(file=b"", flips=[], cut=None)
@settings(max_examples=400, deadline=None)
def test_damaged_files_have_an_orientation_too(file, flips, cut):
    data = bytearray(file[:cut])
    for place, value in flips:
        if place < len(data):
            data[place] = value
    found = exif.orientation(bytes(data))
    assert found in range(1, 9)
    with contextlib.suppress(Unreadable):
        assert decode_image(bytes(data), 10**6, upright=True).is_contiguous()


def test_chunks_after_the_image_count_and_are_not_sought_for_long():
    png = photo(6, "PNG")
    at = png.index(b"eXIf") - 4
    (size,) = struct.unpack_from(">I", png, at)
    chunk = png[at : at + size + 12]
    assert exif.orientation(png[:at] + png[at + len(chunk) : -12] + chunk + png[-12:]) == 6
    empty = bytes(4) + b"tEXt" + bytes(4)
    assert exif.orientation(png[:at] + empty * 1000 + png[at:]) == 6
    assert exif.orientation(png[:at] + empty * exif.CHUNKS + png[at:]) == 1
    webp = photo(6, "WEBP")
    at = webp.index(b"EXIF")
    assert exif.orientation(webp[:at] + b"JUNK\1\0\0\0x\0" + webp[at:]) == 6  # an odd size is followed by a byte
    assert exif.orientation(webp[:at] + (b"JUNK" + bytes(4)) * exif.CHUNKS + webp[at:]) == 1


def test_a_webp_says_in_its_first_chunk_whether_exif_data_follow():
    data = bytearray(photo(6, "WEBP"))
    assert data[12:16] == b"VP8X"
    data[20] &= ~8
    assert exif.orientation(bytes(data)) == 1
    assert torch.equal(decode_image(bytes(data), 10**6, upright=True), decode_image(bytes(data), 10**6))


def test_a_directory_of_thousands_of_entries_is_not_read_to_its_end():
    entries = [(271, 3, 1, 0)] * (exif.ENTRIES - 1) + [(exif.ORIENTATION, 3, 1, 6)]
    assert exif.of_block(block("<", entries, 8, None)) == 6
    assert exif.of_block(block("<", [(271, 3, 1, 0), *entries], 8, None)) == 1


def test_training_turns_images_where_the_configuration_says_so(write_shards, make_config):
    """The same boxes are cut, since the numbers that they are drawn from do not know of pixels."""

    def change(_shard: int, number: int, sample: dict) -> None:
        sample["jpg"] = photo(1 if number % 2 else 6, "JPEG", quality=95)

    shards = write_shards([8], change)
    views = {"n_global": 1, "n_local": 0, "global_area": (1.0, 1.0), "flip": 0.0}

    def batch(upright: bool):
        (found,) = itertools.islice(build_loader(make_config(shards, views=views, upright=upright), rank=0, world=1), 1)
        return found

    turned, stored = batch(True), batch(False)
    assert turned.keys == stored.keys
    assert make_config(shards).data.upright
    for i, key in enumerate(turned.keys):
        assert torch.equal(turned.large[i], stored.large[i]) == (int(key[-1]) % 2 == 1)
