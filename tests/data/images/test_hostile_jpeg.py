"""A JPEG's size and scans are those that its decoder finds, whatever lies between its segments."""

from __future__ import annotations

import io
import struct

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

from silc.data.images import decode, jpeg
from silc.data.images.decode import decode_image
from tests.data.images.hostile import DEFAULT, noise, refuses
from tests.data.images.image_fuzz import encode


def frame(width: int, height: int, marker: int = 0xC0) -> bytes:
    """A JPEG's frame header."""
    components = bytes([1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0])
    return bytes([0xFF, marker]) + struct.pack(">HBHHB", 17, 8, height, width, 3) + components


SMALL, LARGE = frame(64, 64), frame(30_000, 30_000)


@pytest.mark.parametrize(
    "hidden",
    [
        b"\xff\x00"
        + struct.pack(">H", 21)
        + SMALL,  # FF 00 is no segment: the small frame counts, the second is an error
        b"\xff\x00" + struct.pack(">H", 2 + len(LARGE)) + LARGE,  # ... so that this one counts
        # ... also where who takes FF 00 for a segment comes out at a small frame inside a comment.
        b"\xff\x00" + struct.pack(">H", 25) + LARGE + b"\xff\xfe" + struct.pack(">H", 21) + SMALL,
        b"\xff\xe0\x00\x00" + LARGE,  # a segment that is shorter than its length
        b"\xff\xe0\x00\x01" + LARGE,
        b"\xff\xff\xff" + LARGE[1:],  # fill bytes
        b"any bytes \x00" + LARGE,
        b"\xff\x01\xff\xd0" + LARGE,  # markers without a segment
    ],
)
def test_a_jpegs_size_is_the_one_that_its_decoder_finds(hidden, monkeypatch):
    """Of 397 bytes with some of these the size was read as 64 x 64, and 30,000 x 30,000 pixels were decoded."""
    whole = encode(noise(64, 64), "JPEG")
    start = whole.index(b"\xff\xc0")
    data = whole[:start] + hidden + whole[start:]
    if LARGE[1:] in hidden:
        refuses(whole[:start] + hidden + whole[start + len(SMALL) :], "too many pixels", monkeypatch)
    refuses(data, "undecodable image", monkeypatch)  # two frames


SEGMENTS = st.one_of(
    st.sampled_from(
        [b"\xff\x00", b"\xff\xff", b"\xff", b"\x00", b"\xff\x01", b"\xff\xd0", b"\xff\xd8", b"\xff\xd9", b"\xff\xda"]
    ),
    st.sampled_from([frame(8, 8), frame(9, 0), frame(24, 16), frame(8, 8, 0xC2), frame(8, 8, 0xC9), frame(8, 8, 0xC3)]),
    st.builds(
        lambda marker, length, body: bytes([0xFF, marker]) + struct.pack(">H", length) + body,
        st.sampled_from([0xE0, 0xE1, 0xEE, 0xFE, 0xDC, 0xC4, 0xC8, 0xCC, 0xDB, 0xDD, 0xF0]),
        st.one_of(st.integers(0, 24), st.just(65535)),
        st.one_of(st.binary(max_size=24), st.just(frame(40, 8))),
    ),
    st.binary(max_size=6),
)
PLAIN = encode(noise(16, 24), "JPEG")
PROGRESSIVE = encode(noise(16, 24), "JPEG", progressive=True)


@given(
    whole=st.sampled_from([PLAIN, PROGRESSIVE]),
    where=st.sampled_from(["\xe0", "\xdb", "\xc0", "\xc4", "\xda"]),
    pieces=st.lists(SEGMENTS, max_size=4),
    flips=st.lists(st.tuples(st.integers(2, 700), st.integers(0, 255)), max_size=2),
)
@example(whole=PLAIN, where="\xc0", pieces=[b"\xff\x00\x00\x15" + frame(40, 8)], flips=[])
@example(whole=PLAIN, where="\xc0", pieces=[], flips=[])
@settings(max_examples=600, deadline=None)
def test_a_jpegs_header_is_read_as_two_decoders_read_it(whole, where, pieces, flips):
    at = whole.find(b"\xff" + where.encode("latin-1"))
    at = at if at >= 0 else 2
    data = bytearray(whole[:at] + b"".join(pieces) + whole[at:])
    for place, value in flips:
        data[min(place, len(data) - 1)] = value
    data = bytes(data)
    header = jpeg.read_header(data)
    try:
        decoded = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
    except RuntimeError:
        return  # whatever the header says, nothing is decoded
    assert header is not None
    assert (header.height, header.width) == decoded.shape[1:]
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as opened:
            opened.load()
    except (OSError, SyntaxError, ValueError):
        return  # Pillow's own reading of segments is stricter
    assert opened.size == (header.width, header.height)


def test_a_segment_flood_and_frames_by_rare_methods_are_refused(monkeypatch):
    image = encode(noise(16, 16), "JPEG")
    flood = image[:2] + b"\xff\xe1\x00\x02" * (jpeg.MARKERS + 1) + image[2:]
    refuses(flood, "undecodable image", monkeypatch)
    few = image[:2] + b"\xff\xe1\x00\x02" * 100 + image[2:]
    assert decode_image(few, DEFAULT).shape == (16, 16, 3)
    for marker in (0xC3, 0xC9, 0xCA):
        refuses(image.replace(b"\xff\xc0", bytes([0xFF, marker])), "undecodable image", monkeypatch)


def test_scans_are_counted_before_they_are_decoded(monkeypatch):
    """Forty thousand scans of a large image took 43 s."""
    data = encode(noise(640, 480), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    scan = data[data.rindex(b"\xff\xda", 0, last) : last]
    many = lambda count: data[:last] + scan * (count - data.count(b"\xff\xda")) + data[last:]  # noqa: E731
    assert jpeg.read_header(encode(noise(64, 48), "JPEG", exif=b"\xff\xda" * 900)).scans == 1  # a thumbnail's, say
    plain = encode(noise(640, 480), "JPEG").replace(b"\xff\xda\x00\x0c\x03", b"\xff\xda\x00\x0c\x01")
    refuses(plain[:-2] + b"\xff\xda" * jpeg.SCANS + plain[-2:], "too many scans", monkeypatch)
    refuses(many(jpeg.SCANS + 1), "too many scans", monkeypatch)
    refuses(many(decode.SCANS + 1), "too many scans", monkeypatch, 640 * 480)
    assert decode_image(many(decode.SCANS), 640 * 480).shape == (480, 640, 3)
