"""No image file takes more memory or time than the limit of pixels allows; none is decoded that exceeds it."""

from __future__ import annotations

import pickle
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from silc.config import DataConfig
from silc.data.images import decode, pillow
from silc.data.images.decode import decode_image
from silc.data.shards import Unreadable
from silc.data.splits import decode_mask, numbered_from_one
from tests.data.images import image_fuzz
from tests.data.images.hostile import DEFAULT, noise, refuses
from tests.data.images.image_fuzz import encode

ROOT = Path(__file__).resolve().parents[3]

MEASURE = """
import pickle, sys
from pathlib import Path
from silc.data.images import pillow
from silc.data.images.decode import decode_image
from silc.data.splits import decode_mask, numbered_from_one

def peak():
    return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

def grown(data, mask, limit):
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    if mask:
        found = decode_mask(data, numbered_from_one(300), 300, "m", limit)
    else:
        found = decode_image(data, limit, upright=True)
    return peak() - before

pillow.STRIP = 1 << 16
small, large = pickle.load(sys.stdin.buffer)
for case in small:  # what is loaded with the first use does not count
    grown(*case)
sys.stdout.buffer.write(pickle.dumps([grown(*case) for case in large]))
"""


_TAGS = Image.Exif()
_TAGS[274] = 6
TURNED = _TAGS.tobytes()


def costly(width: int, height: int) -> dict[str, bytes]:
    """A file of each kind that takes most memory; masks are named so."""
    rgb = noise(width, height)
    clear = rgb.convert("RGBA")
    clear.putalpha(rgb.convert("L"))
    grey, png = np.asarray(rgb.convert("L")), {"compress_level": 1}
    return {
        "png": encode(rgb, "PNG", **png),
        "png alpha": encode(clear, "PNG", **png),
        "png 16": encode(Image.fromarray(grey.astype(np.uint16) * 257), "PNG", **png),
        "tiff of one strip": encode(rgb, "TIFF", compression="tiff_lzw", tiffinfo={278: height}),
        "tiff 32": encode(Image.fromarray(grey.astype(np.int32)), "TIFF", compression="tiff_lzw"),
        "tiff float": encode(Image.fromarray(np.float32(grey) / 255), "TIFF", compression="tiff_lzw"),
        "png turned": encode(rgb, "PNG", exif=TURNED, **png),
        "tiff turned": encode(clear, "TIFF", compression="tiff_lzw", tiffinfo={274: 6}),
        "jpeg turned": encode(rgb, "JPEG", exif=TURNED),
        "avif": encode(clear, "AVIF", speed=10, subsampling="4:4:4", advanced={"film-grain-test": "1"}),
        "avif turned": encode(rgb, "AVIF", speed=10, exif=TURNED),
        "gif": encode(rgb.quantize(16), "GIF", transparency=1),
        "bmp": encode(rgb, "BMP"),
        "webp": encode(rgb, "WEBP", method=0),
        "webp alpha": encode(clear, "WEBP", lossless=True, method=0, quality=0),
        "jpeg": encode(rgb, "JPEG"),
        "jpeg progressive": encode(rgb.convert("CMYK"), "JPEG", progressive=True, subsampling=0),
        "mask": encode(Image.fromarray(grey), "PNG", **png),
        "mask 16": encode(Image.fromarray((grey % 200).astype(np.uint16)), "PNG", **png),
    }


def test_decoding_takes_the_memory_that_is_stated_for_the_pixels_that_the_limit_allows():
    def cases(width: int, height: int) -> list[tuple[bytes, bool, int]]:
        return [(data, name.startswith("mask"), width * height) for name, data in costly(width, height).items()]

    def stated(data: bytes) -> int:
        kind = pillow.format_of(data)
        return decode.JPEG_MEMORY if kind is None else pillow.FORMATS[kind].memory

    width, height = 1600, 1300
    large = cases(width, height)
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE],
        input=pickle.dumps((cases(40, 30), large)),
        capture_output=True,
        cwd=ROOT,
        # What is freed goes back at once, or a case would use what an earlier one left.
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}", "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "500000"},
        check=True,
        timeout=120,
    )
    grown = pickle.loads(ran.stdout)  # written by the process above
    for name, (data, _, pixels), size in zip(costly(40, 30), large, grown, strict=True):
        assert 2 * width * height < size, name
        assert size <= stated(data) * pixels + 3 * len(data) + (1 << 20), (name, size / pixels)


@pytest.mark.parametrize("kind", ["PPM", "TGA", "PCX", "EPS", "ICO", "JPEG2000", "SGI", "QOI", "DDS", "IM"])
def test_other_formats_are_not_opened(kind, monkeypatch):
    Image.init()
    refuses(encode(noise(16, 16), kind), "undecodable image", monkeypatch)


def test_no_program_is_started_and_no_stub_is_asked(monkeypatch):
    for beginning in (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"SIMPLE  =",
        b"8BPS\0\1",
        b"BUFR",
        b"GRIB",
    ):
        refuses(beginning + bytes(4000), "undecodable image", monkeypatch)


def test_a_run_length_bmp_is_refused(monkeypatch):
    """Two of its bytes stand for 255 rows: of 65,535 columns, 16 MB; of 89 million, 22 GB."""
    data = bytearray(encode(noise(64, 8).quantize(4), "BMP"))
    struct.pack_into("<I", data, 30, 1)
    refuses(bytes(data), "undecodable image", monkeypatch)


def tiff(tags: dict[int, tuple[int, int, int]], body: bytes = b"") -> bytes:
    """A TIFF with the tags (kind, count, value), and bytes from 512 on."""
    entries = b"".join(struct.pack("<HHII", tag, *each) for tag, each in sorted(tags.items()))
    return (b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)).ljust(512, b"\0") + body


def plain_tiff(width: int, height: int, **changes: tuple[int, int, int]) -> dict[int, tuple[int, int, int]]:
    tags = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 273: (4, 1, 512)}
    return tags | {278: (4, 1, height), 279: (4, 1, width * height)} | {int(k[1:]): v for k, v in changes.items()}


def without(tags: dict, *names: int) -> dict:
    return {tag: each for tag, each in tags.items() if tag not in names}


REASONS = dict.fromkeys(("a tile larger than the limit", "tiles that are cut mostly"), "too many pixels")


def test_a_tiffs_strips_and_tiles_cover_it_once(monkeypatch):
    body = bytes(64 * 64)
    assert decode_image(tiff(plain_tiff(64, 64), body), 64 * 64).shape == (64, 64, 3)
    tiled = without(
        plain_tiff(64, 64, t322=(3, 1, 64), t323=(3, 1, 64), t324=(4, 1, 512), t325=(4, 1, 4096)), 273, 278, 279
    )
    assert decode_image(tiff(tiled, body), 64 * 64).shape == (64, 64, 3)
    bad = {
        "the image over and over": plain_tiff(64, 64, t273=(4, 1000, 512), t278=(4, 1, 63)),
        "millions of strips": plain_tiff(64, 64, t273=(4, 40_000_000, 512), t278=(4, 1, 1)),
        "a strip of no rows": plain_tiff(64, 64, t278=(4, 1, 0)),
        "a tile larger than the limit": tiled | {322: (4, 1, 30_000), 323: (4, 1, 30_000)},
        "tiles that are cut mostly": tiled | {322: (4, 1, 1), 323: (4, 1, 60_000_000), 324: (4, 64, 512)},
        "tiles of no size": tiled | {322: (3, 1, 0)},
        "strips and tiles": tiled | {273: (4, 1, 512)},
        "a JPEG inside": plain_tiff(64, 64, t259=(3, 1, 7)),
        "LZMA": plain_tiff(64, 64, t259=(3, 1, 34925)),
        "a width as text": plain_tiff(64, 64, t256=(2, 1, 64)),
        "two widths": plain_tiff(64, 64, t256=(4, 2, 64)),
    }
    for name, tags in bad.items():
        try:
            refuses(tiff(tags, body * 9), REASONS.get(name, "undecodable image"), monkeypatch)
        except BaseException as error:
            error.add_note(name)
            raise
    refuses(tiff(plain_tiff(64, 64), body).replace(b"II*\0", b"II+\0"), "undecodable image", monkeypatch)


@pytest.mark.parametrize("chunk", [b"abCd", b"IDAT", b"tEXt"])
def test_a_png_of_millions_of_chunks_is_refused(monkeypatch, chunk):
    """Two million took half a minute."""
    data = encode(noise(16, 16), "PNG")
    at = data.index(b"IDAT") - 4
    empty = struct.pack(">I", 0) + chunk + struct.pack(">I", zlib.crc32(chunk))
    assert decode_image(data[:at] + empty * 100 + data[at:], DEFAULT).shape == (16, 16, 3)
    flood = data[:at] + empty * (pillow.READS // 2) + data[at:]
    if chunk == b"IDAT":  # such chunks are read while it is decoded
        with pytest.raises(Unreadable, match="undecodable image"):
            decode_image(flood, DEFAULT)
    else:
        refuses(flood, "undecodable image", monkeypatch)


@pytest.mark.parametrize("block", [b"!\xff\1a\0", b"!\xfe\1a\1b\0", b"\0", b"!\xfe" + b"\1a" * 1000 + b"\0"])
def test_a_gif_of_millions_of_blocks_is_refused(monkeypatch, block):
    for mode in ("P", "L"):
        data = encode(noise(16, 16).quantize(9).convert(mode), "GIF")
        at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
        assert decode_image(data[:at] + block * 10 + data[at:], DEFAULT).shape == (16, 16, 3)
        refuses(data[:at] + block * (2 * pillow.READS // len(block) + 1) + data[at:], "undecodable image", monkeypatch)


@pytest.mark.parametrize("disposal", [0, 1, 2, 3])
def test_a_gifs_frame_is_not_filled_before_its_size_is_known(monkeypatch, disposal):
    """110 bytes, with a frame of 13,000 x 13,000 pixels to be cleared, took 160 MB to be refused."""
    frames = [Image.new("RGB", (9, 7), color) for color in ((200, 0, 0), (0, 200, 0))]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:], disposal=disposal)
    assert decode_image(data, 1000)[0, 0].tolist() == [200, 0, 0]
    at = data.index(b"," + bytes(4) + struct.pack("<HH", 9, 7)) + 5
    large = data[:at] + struct.pack("<HH", 13_000, 13_000) + data[at + 4 :]
    filled = []
    monkeypatch.setattr(Image.core, "fill", lambda *words: filled.append(words))
    refuses(large, "too many pixels", monkeypatch)
    assert not filled


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_a_side_is_limited_too(kind, monkeypatch):
    data = encode(Image.new("L", (pillow.MAX_SIDE + 1, 1)), kind)
    refuses(data, "too many pixels", monkeypatch)
    refuses(encode(Image.new("L", (1, pillow.MAX_SIDE + 1)), kind), "too many pixels", monkeypatch)
    assert decode_image(encode(Image.new("L", (pillow.MAX_SIDE, 1)), kind), DEFAULT).shape == (1, pillow.MAX_SIDE, 3)


@pytest.mark.parametrize("kind", ["JPEG", *pillow.FORMATS])
def test_the_limit_is_the_same_for_every_format(monkeypatch, kind):
    data = encode(noise(64, 64), kind)
    refuses(data, "too many pixels", monkeypatch, 64 * 64 - 1)
    assert decode_image(data, 64 * 64).shape == (64, 64, 3)


def test_the_limit_can_be_no_larger_than_that_of_pillow(monkeypatch):
    """Some of its readers ask for twice MAX_IMAGE_PIXELS themselves."""
    largest = 2 * Image.MAX_IMAGE_PIXELS
    assert DataConfig(max_image_pixels=largest).max_image_pixels == largest
    with pytest.raises(ValueError, match="max_image_pixels"):
        DataConfig(max_image_pixels=largest + 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for kind in ("TIFF", "WEBP"):
        with pytest.raises(Unreadable, match="too many pixels"):
            decode_image(encode(noise(64, 64), kind), 10**6)
    with pytest.raises(Unreadable, match="too many pixels"):
        decode_mask(encode(Image.new("L", (64, 64)), "TIFF"), numbered_from_one(3), 3, "m", 10**6)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_of_an_animation_the_first_frame_is_used(kind):
    frames = [Image.new("RGB", (9, 7), color) for color in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    options = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}}.get(kind, {})
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    found = decode_image(data, 1000).reshape(-1, 3).int()
    assert (found - torch.tensor([200, 0, 0])).abs().max() <= (2 if kind == "AVIF" else 0)


def test_rows_are_converted_as_the_whole(monkeypatch):
    rng = np.random.default_rng(1)
    values = rng.integers(0, 65536, (50, 40)).astype(np.uint16)
    clear = Image.fromarray(rng.integers(0, 256, (50, 40, 4), dtype=np.uint8))
    palette = noise(40, 50).quantize(7)
    files = [
        encode(Image.fromarray(values), "PNG"),
        encode(clear, "PNG"),
        encode(palette, "PNG", transparency=1),
        encode(Image.fromarray(values.astype(np.float32) / 65535), "TIFF"),
    ]
    whole = [decode_image(data, 2000) for data in files]
    masks = [decode_mask(files[0], numbered_from_one(70_000), 70_000, "m", 2000)]
    monkeypatch.setattr(pillow, "STRIP", 130)  # three rows
    assert all(torch.equal(decode_image(data, 2000), was) for data, was in zip(files, whole, strict=True))
    assert torch.equal(decode_mask(files[0], numbered_from_one(70_000), 70_000, "m", 2000), masks[0])
    expected = torch.from_numpy((values.astype(np.float64) / 257).round().astype(np.uint8))
    assert torch.equal(whole[0][..., 0], expected)


def test_masks_have_the_same_limits(monkeypatch):
    data = encode(Image.new("L", (50, 40)), "PNG")
    assert decode_mask(data, numbered_from_one(3), 3, "m", 2000).shape == (40, 50)
    with pytest.raises(Unreadable, match="too many pixels"):
        decode_mask(data, numbered_from_one(3), 3, "m", 1999)
    bomb = bytearray(data)
    struct.pack_into(">II", bomb, 16, 50_000, 50_000)
    with pytest.raises(Unreadable):
        decode_mask(bytes(bomb), numbered_from_one(3), 3, "m", DEFAULT)
    with pytest.raises(Unreadable, match="undecodable mask"):
        decode_mask(encode(Image.new("L", (50, 40)), "PPM"), numbered_from_one(3), 3, "m", DEFAULT)
    with pytest.raises(Unreadable, match="floating-point"):
        decode_mask(encode(Image.new("F", (50, 40)), "TIFF"), numbered_from_one(3), 3, "m", DEFAULT)
    with pytest.raises(ValueError, match="3 channels"):
        decode_mask(encode(Image.new("RGB", (50, 40)), "PNG"), numbered_from_one(3), 3, "m", DEFAULT)


def test_damaged_images_are_decoded_or_refused():
    outcomes = image_fuzz.fuzz(1500, 0)
    assert sum(count for (_, what), count in outcomes.items() if not what.startswith("mask")) == 1500
    assert {kind for kind, _ in outcomes} == {name.split()[0].upper() for name in image_fuzz.seeds()}
    for kind in ("JPEG", *pillow.FORMATS):
        assert min(outcomes[kind, "decoded"], outcomes[kind, "undecodable image"]) > 10, kind
    known = {"decoded", "undecodable image", "too many pixels", "too many scans", "AVIF of several frames"}
    known |= {"AVIF without a primary item", "floating-point values beyond 0 to 1"}
    assert {what for _, what in outcomes if not what.startswith("mask")} <= known
    assert not any(what == "decoded" for kind, what in outcomes if kind not in (*pillow.FORMATS, "JPEG", "MPO", "DIB"))


@given(kind=st.sampled_from(sorted(image_fuzz.seeds())), seed=st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_any_damage_is_answered_in_words(kind, seed):
    image_fuzz.check(image_fuzz.mutated(image_fuzz.seeds()[kind], seed))
