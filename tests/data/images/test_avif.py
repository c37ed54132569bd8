"""AVIF images decode as Pillow decodes them whole; no stream is decoded that states larger frames than its file."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from silc.data.images import av1, avif
from silc.data.images.decode import decode_image
from silc.data.shards import Unreadable
from tests.data.av1_obus import Bits, obu, sequences
from tests.data.images.hostile import noise, refuses
from tests.data.images.image_fuzz import encode

WIDTH, HEIGHT = 97, 61


def picture(mode: str = "RGB") -> Image.Image:
    rgb = noise(WIDTH, HEIGHT)
    if mode == "RGBA":
        clear = rgb.convert("RGBA")
        clear.putalpha(rgb.convert("L"))
        return clear
    return rgb.convert(mode)


def again(mode: str) -> dict:
    return {"save_all": True, "append_images": [picture(mode).rotate(180)]}


FILES = {
    "colour": ("RGB", {}),
    "colour, 4:4:4": ("RGB", {"subsampling": "4:4:4"}),
    "colour, 4:2:2": ("RGB", {"subsampling": "4:2:2"}),
    "colour without colour": ("RGB", {"subsampling": "4:0:0"}),
    "limited range": ("RGB", {"range": "limited"}),
    "lossless": ("RGB", {"quality": 100, "subsampling": "4:4:4"}),
    "grey": ("L", {}),
    "transparency": ("RGBA", {}),
    "premultiplied": ("RGBA", {"alpha_premultiplied": True}),
    "tiles of a frame": ("RGB", {"tile_rows": 1, "tile_cols": 1}),
    "animated": ("RGB", again("RGB")),
    "animated, transparency": ("RGBA", again("RGBA")),
    "profile": ("RGB", {"icc_profile": bytes(200)}),
    "XMP": ("RGB", {"xmp": b"<x/>"}),
}


@pytest.mark.parametrize("name", FILES)
def test_the_image_alone_decodes_as_the_whole_file(name):
    mode, options = FILES[name]
    data = encode(picture(mode), "AVIF", **options)
    still = avif.still(data)
    assert (still.width, still.height, still.orientation) == (WIDTH, HEIGHT, 1)
    whole, alone = (Image.open(io.BytesIO(file)) for file in (data, still.file))
    assert alone.mode == whole.mode
    assert np.array_equal(np.asarray(alone), np.asarray(whole))
    white = Image.new("RGBA", whole.size, "white")
    expected = Image.alpha_composite(white, whole.convert("RGBA")).convert("RGB")
    assert np.array_equal(decode_image(data, 10**6).numpy(), np.asarray(expected))


def stream_of(data: bytes) -> bytes:
    meta = avif._Meta(data)
    return meta.stream(meta.primary)


STILL, MOVING = encode(picture(), "AVIF"), encode(picture(), "AVIF", **again("RGB"))


@given(header=sequences(), kind=st.sampled_from([av1.FRAME, av1.FRAME_HEADER]), extension=st.booleans())
@settings(max_examples=300, deadline=None)
def test_sizes_are_read_from_every_kind_of_sequence_header(header, kind, extension):
    sequence, text, size = header
    beginning = obu(av1.DELIMITER, b"") + obu(av1.SEQUENCE, sequence, extension=extension)
    frame, other = Bits(), Bits()
    frame.text, other.text = text + "0", text + "1"
    own = obu(kind, frame.bytes())
    assert av1.frame_size(beginning + own) == size
    if text:
        with pytest.raises(ValueError, match="a size of its own"):
            av1.frame_size(beginning + obu(kind, other.bytes()))
        with pytest.raises(ValueError, match="cut short"):
            av1.frame_size(beginning + obu(kind, b""))
    with pytest.raises(av1.SeveralFrames):
        av1.frame_size(beginning + 2 * own)
    with pytest.raises(ValueError, match="several sequence headers"):
        av1.frame_size(beginning + obu(av1.SEQUENCE, sequence) + own)
    for stream, said in ((beginning, "no frame"), (own, "no sequence header"), (b"", "no frame")):
        with pytest.raises(ValueError, match=said):
            av1.frame_size(stream)
    with pytest.raises(ValueError, match="cut short"):
        av1.frame_size(obu(av1.SEQUENCE, sequence[:1]) + own)


def with_stream(data: bytes, stream: bytes, size: tuple[int, int] = (WIDTH, HEIGHT)) -> bytes:
    """A file like this one, around another stream."""
    meta = avif._Meta(data)
    return avif._file([(stream, meta.properties(meta.primary))], size, premultiplied=False)


def still_header(width: int, height: int) -> bytes:
    """The sequence header of the file STILL, with another size."""
    own = next(payload for kind, payload in av1._obus(stream_of(STILL)) if kind == av1.SEQUENCE)
    text = "".join(f"{byte:08b}" for byte in own)
    behind = 10 + 8 + int(text[10:14], 2) + 1 + int(text[14:18], 2) + 1
    bits = Bits()
    bits.text = text[:10] + f"11111111{width - 1:016b}{height - 1:016b}" + text[behind:].rstrip("0")[:-1]
    return bits.bytes()


def replaced(stream: bytes, header: bytes) -> bytes:
    return b"".join(obu(kind, header if kind == av1.SEQUENCE else payload) for kind, payload in av1._obus(stream))


def test_a_stream_that_states_a_larger_frame_is_not_decoded(monkeypatch):
    """Of 2,241 bytes Pillow takes the image to be 97 x 61, and decodes 16,384 x 16,384 pixels, in 350 MB."""
    stream = stream_of(STILL)
    assert avif.still(with_stream(STILL, stream)).width == WIDTH
    large = encode(Image.new("L", (2048, 1024), 90), "AVIF", speed=10)
    lie = with_stream(large, stream_of(large))
    with Image.open(io.BytesIO(lie)) as image:
        assert image.size == (WIDTH, HEIGHT)
        image.load()  # so that it would be decoded
    refuses(lie, "undecodable image", monkeypatch)
    refuses(with_stream(large, stream_of(large), (2048, 1024)), "too many pixels", monkeypatch, 2048 * 1024 - 1)
    refuses(with_stream(STILL, replaced(stream, still_header(16_384, 16_384))), "undecodable image", monkeypatch)
    refuses(STILL, "too many pixels", monkeypatch, WIDTH * HEIGHT - 1)


def test_streams_of_several_frames_are_refused(monkeypatch):
    stream = stream_of(MOVING)
    frame = next(payload for kind, payload in av1._obus(stream) if kind == av1.FRAME)
    for more in (obu(av1.FRAME, frame), obu(av1.FRAME_HEADER, frame)):
        refuses(with_stream(MOVING, stream + more), "AVIF of several frames", monkeypatch)
    for more in (obu(7, frame), obu(8, frame), obu(av1.SEQUENCE, still_header(9, 9)), b"\x80", b"\x32\xff"):
        refuses(with_stream(MOVING, stream + more), "undecodable image", monkeypatch)
    assert (
        avif.still(with_stream(MOVING, stream + obu(av1.PADDING, bytes(9)) + obu(av1.METADATA, b"\1"))).width == WIDTH
    )


def changed(data: bytes, name: bytes, content: bytes, at: int = 0) -> bytes:
    """A file with other bytes in its first box of this name, `at` bytes behind the name."""
    place = data.index(name) + 4 + at
    return data[:place] + content + data[place + len(content) :]


def test_other_kinds_of_items_are_refused_by_name(monkeypatch):
    refuses(changed(STILL, b"infe", b"grid", 8), "AVIF of several tiles", monkeypatch)
    refuses(changed(STILL, b"infe", b"hvc1", 8), "undecodable image", monkeypatch)
    refuses(changed(STILL, b"infe", b"\0\1", 6), "undecodable image", monkeypatch)  # encrypted
    refuses(MOVING.replace(b"pitm", b"free"), "AVIF without a primary item", monkeypatch)


@pytest.mark.parametrize(
    ("name", "content", "at"),
    [
        (b"iloc", b"\xff\xff", 6),  # items
        (b"iloc", b"\xff\xff\xff\xff", 18),  # a length
        (b"iloc", b"\xff\xff\xff\xff", 14),  # a place
        (b"iloc", b"\xff\xff", 12),  # pieces
        (b"iloc", b"\xff\xff", 4),  # sizes of numbers
        (b"iloc", b"\x03", 0),  # version
        (b"ipma", b"\xff\xff\xff\xff", 4),
        (b"ipma", b"\xff", 10),
        (b"ipma", b"\x7f", 11),
        (b"pitm", b"\x00\x09", 4),
        (b"ispe", struct.pack(">II", 98, 61), 4),
        (b"ispe", struct.pack(">II", 2**32 - 1, 2**32 - 1), 4),
        (b"av1C", b"", 0),
    ],
)
def test_lists_that_state_what_is_not_there_are_refused(name, content, at, monkeypatch):
    data = changed(STILL, name, content, at) if content else STILL.replace(name, b"free")
    refuses(data, "undecodable image", monkeypatch)


def test_a_file_that_repeats_a_piece_does_not_grow():
    """A list of 4096 pieces, each of the whole file."""
    start = STILL.index(b"iloc") - 4
    (size,) = struct.unpack_from(">I", STILL, start)
    listed = struct.pack(">BBHHHH", 0x44, 0, 1, 1, 0, 4096) + struct.pack(">II", 0, 8000) * 4096
    box = struct.pack(">I", 12 + len(listed)) + b"iloc" + bytes(4) + listed
    meta = STILL.index(b"meta") - 4
    (whole,) = struct.unpack_from(">I", STILL, meta)
    data = STILL[:meta] + struct.pack(">I", whole - size + len(box)) + STILL[meta + 4 : start] + box
    with pytest.raises(Unreadable, match="undecodable"):
        avif.still(data + STILL[start + size :])


def test_pieces_are_joined():
    """As writers may lay them out; the pieces of a file lie in any order."""
    stream = stream_of(STILL)
    rebuilt = avif.still(STILL).file
    place = rebuilt.index(b"iloc") + 4
    offset = struct.unpack_from(">I", rebuilt, place + 14)[0]
    listed = struct.pack(">BBHHHH", 0x44, 0, 1, 1, 0, 2) + struct.pack(
        ">IIII", offset + 8, 300, offset + 308, len(stream) - 300
    )
    box = struct.pack(">I", 12 + len(listed)) + b"iloc" + bytes(4) + listed
    old = struct.unpack_from(">I", rebuilt, place - 8)[0]
    meta = rebuilt.index(b"meta") - 4
    whole = struct.unpack_from(">I", rebuilt, meta)[0] + len(box) - old
    data = rebuilt[:meta] + struct.pack(">I", whole) + rebuilt[meta + 4 : place - 8] + box + rebuilt[place - 8 + old :]
    assert avif.still(data) == avif.still(STILL)


@given(
    file=st.sampled_from([STILL, MOVING, encode(picture("RGBA"), "AVIF")]),
    flips=st.lists(st.tuples(st.integers(0, 900), st.integers(0, 255)), max_size=4),
    cut=st.integers(0, 2000) | st.none(),
)
@settings(max_examples=400, deadline=None)
def test_damaged_files_are_cut_out_or_refused(file, flips, cut):
    data = bytearray(file[:cut])
    for place, value in flips:
        if place < len(data):
            data[place] = value
    assert avif.orientation(bytes(data)) in range(1, 9)
    try:
        still = avif.still(bytes(data))
    except Unreadable:
        return
    assert len(still.file) < 2 * len(file)
    again = avif.still(still.file)
    assert again == still._replace(orientation=1)
