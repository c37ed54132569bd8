"""The header of an image file, beside what Pillow says after it has decoded the whole."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from silc.data.images.decode import decode_image
from silc.data.shards import Unreadable
from silc.data.survey.look import look
from silc.data.survey.profiles import LONGEST, UNNAMED, is_srgb, name_of

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
LIMIT = 10**6


def pixels(mode: str, size: tuple[int, int] = (30, 20)) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(values)
    if mode == "I;16":
        return Image.fromarray(values[..., 0].astype(np.uint16) * 257)
    return image.convert(mode)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


# Made once: a profile holds the time at which it was made.
SRGB, LAB = (ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes() for name in ("sRGB", "LAB"))


MODES = [(kind, mode) for kind in FORMATS for mode in ("RGB", "L") if (kind, mode) != ("AVIF", "L")]


@pytest.mark.parametrize(("kind", "mode"), [*MODES, ("JPEG", "CMYK"), ("TIFF", "CMYK"), ("PNG", "P")])
def test_format_size_and_mode_are_those_of_the_whole_image(kind, mode):
    data = encoded(pixels(mode), kind)
    with Image.open(io.BytesIO(data)) as whole:
        whole.load()
        found = look(data, LIMIT)
        assert (found.format, (found.width, found.height), found.mode) == (kind, whole.size, whole.mode)
    assert (found.bits, found.alpha, found.animated, found.orientation, found.profile) == (8, False, False, 1, None)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparency(kind):
    image = pixels("RGBA")
    image.putalpha(100)  # WebP drops it where it is opaque
    assert look(encoded(image, kind), LIMIT).alpha


def test_a_transparent_color_of_a_palette():
    assert look(encoded(pixels("P"), "PNG", transparency=3), LIMIT).alpha


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits(kind):
    assert look(encoded(pixels("I;16"), kind), LIMIT).bits == 16


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_more_frames_than_one(kind):
    image = pixels("RGB")
    data = encoded(image, kind, save_all=True, append_images=[image.rotate(180), image.rotate(90)])
    assert look(data, LIMIT).animated


def test_a_second_frame_that_is_damaged():
    """Training uses the first alone."""
    image = pixels("P")
    data = encoded(image, "GIF", save_all=True, append_images=[image.rotate(180)])
    second = data.rindex(b"!\xf9\x04")
    for harm in (data[: second + 10], data[:second] + b"!\xf9\x00" + data[second + 3 :], data[: second + 14]):
        assert decode_image(harm, LIMIT).shape == (20, 30, 3)
        assert look(harm, LIMIT).animated


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("number", range(1, 9))
def test_orientation(kind, number):
    exif = Image.Exif()
    exif[0x0112] = number
    assert look(encoded(pixels("RGB"), kind, exif=exif), LIMIT).orientation == number


@pytest.mark.parametrize("number", [0, 9, 60000])
def test_an_orientation_that_is_none(number):
    exif = Image.Exif()
    exif[0x0112] = number
    assert look(encoded(pixels("RGB"), "JPEG", exif=exif), LIMIT).orientation == 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("profile", [SRGB, LAB], ids=["sRGB", "LAB"])
def test_the_name_of_a_profile_is_what_the_color_engine_reads(kind, profile):
    found = look(encoded(pixels("RGB"), kind, icc_profile=profile), LIMIT).profile
    assert found == ImageCms.getProfileDescription(ImageCms.getOpenProfile(io.BytesIO(profile))).strip()
    assert is_srgb(found) == (profile == SRGB)


def test_a_profile_in_several_segments():
    profile = SRGB + bytes(150_000)
    assert is_srgb(look(encoded(pixels("RGB"), "JPEG", icc_profile=profile), LIMIT).profile)


def test_a_name_is_short_and_printable():
    text = b"Wide\x1b[31m" + b"x" * 5000
    tag = b"desc\0\0\0\0" + (len(text)).to_bytes(4, "big") + text
    table = (1).to_bytes(4, "big") + b"desc" + (144).to_bytes(4, "big") + len(tag).to_bytes(4, "big")
    found = name_of(bytes(128) + table + tag)
    assert found.startswith("Wide [31mxxx")
    assert len(found) == LONGEST
    assert found.isprintable()


@given(data=st.binary(max_size=400), count=st.integers(0, 2**32 - 1))
def test_any_bytes_have_a_name_or_none(data, count):
    for profile in (data, bytes(128) + count.to_bytes(4, "big") + data):
        found = name_of(profile)
        assert found == UNNAMED or (found.isprintable() and len(found) <= LONGEST)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "no image"),
        (b"", "undecodable image"),
        (b"<svg/>", "undecodable image"),
        (b"\xff\xd8\xff", "undecodable image"),
        (encoded(pixels("RGB", (200, 100)), "JPEG"), "too many pixels"),
        (encoded(pixels("RGB", (200, 100)), "PNG"), "too many pixels"),
    ],
)
def test_what_has_no_header(data, reason):
    with pytest.raises(Unreadable, match=f"^{reason}$"):
        look(data, 1000)


@settings(max_examples=300, deadline=None)
@given(kind=st.sampled_from(FORMATS), seed=st.integers(0, 2**32), flips=st.integers(1, 8), keep=st.floats(0, 1))
def test_damaged_files_are_looked_at_or_refused(kind, seed, flips, keep):
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {} if kind in ("GIF", "BMP") else {"exif": exif, "icc_profile": SRGB}
    data = bytearray(encoded(pixels("RGB"), kind, **options))
    rng = np.random.default_rng(seed)
    for at in rng.integers(0, min(len(data), 600), flips).tolist():
        data[at] = int(rng.integers(0, 256))
    try:
        found = look(bytes(data[: max(1, int(len(data) * keep))]), LIMIT)
    except Unreadable:
        return
    assert 0 < found.width * found.height <= LIMIT
    assert 1 <= found.orientation <= 8
