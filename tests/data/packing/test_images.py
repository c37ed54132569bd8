"""Images: the extension by content, kept bytes, smaller copies against Pillow's own."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps, features

from silc.data.packing.content import EXTENSIONS, extension
from silc.data.packing.resize import resized
from silc.data.shards import Unreadable
from tests.data.packing.packed import by_source, image, packed

KINDS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif", "AVIF": "avif"}
OTHERS = ("PPM", "ICO", "TGA", "PCX", "SGI", "JPEG2000", "ICNS", "DDS", "PDF", "EPS", "IM", "MSP", "SPIDER", "XBM")


def encoded(kind: str, mode: str = "RGB", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(3072, dtype=np.uint8).reshape(32, 32, 3)).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def apart(result: Image.Image, other: Image.Image) -> float:
    """Mean distance from another image, after it too has been a JPEG of quality 95."""
    buffer = io.BytesIO()
    other.save(buffer, "JPEG", quality=95)
    return float(np.abs(np.asarray(result, np.int16) - np.asarray(Image.open(buffer), np.int16)).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_the_extension_is_that_of_the_content(tmp_path, kind):
    assert features.check("avif")
    assert extension(encoded(kind)) == KINDS[kind]
    for name in ("wrong.jpg", "wrong.tiff"):
        source = tmp_path / name / "in"
        source.mkdir(parents=True)
        (source / name).write_bytes(encoded(kind))
        (source / "wrong.txt").write_text("x")
        assert packed(source, tmp_path / name / "out").kinds == {KINDS[kind]: 1}
        assert by_source(tmp_path / name / "out")[name][KINDS[kind]] == encoded(kind)


def test_variants_of_formats():
    assert extension(encoded("TIFF", big_tiff=True)) == "tif"
    assert extension(b"MM\0*" + bytes(20)) == "tif"
    assert extension(encoded("GIF").replace(b"GIF89a", b"GIF87a")) == "gif"
    assert set(KINDS.values()) == set(EXTENSIONS)
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "AVIF", save_all=True, append_images=frames[1:])
    assert extension(buffer.getvalue()) == "avif"
    for brands in (b"heicmif1heic", b"mif1\0\0\0\0heicmif1"):
        assert extension((len(brands) + 12).to_bytes(4, "big") + b"ftyp" + brands + bytes(8)) is None


@pytest.mark.parametrize("kind", OTHERS)
def test_other_formats_are_none(kind):
    Image.init()
    if kind not in Image.SAVE:
        pytest.fail(f"Pillow writes no {kind}")
    mode = "1" if kind in ("MSP", "XBM") else "F" if kind == "SPIDER" else "RGB"
    assert extension(encoded(kind, mode)) is None


@given(st.binary(max_size=40))
def test_any_bytes_have_an_extension_or_none(data):
    assert extension(data) in (None, *EXTENSIONS)


@pytest.mark.parametrize(("size", "side"), [((400, 300), 100), ((300, 400), 99), ((500, 101), 100), ((1000, 3), 2)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_smaller_images_are_pillows(size, side, kind):
    data = image(1, kind, size)
    result = Image.open(io.BytesIO(resized(data, side, 95, 10**8)))
    shorter = min(size)
    expected = max(side, round(size[0] * side / shorter)), max(side, round(size[1] * side / shorter))
    assert (result.format, result.mode, result.size) == ("JPEG", "RGB", expected)
    assert min(result.size) == side
    own = Image.open(io.BytesIO(data)).convert("RGB").resize(expected, Image.Resampling.BICUBIC)
    assert apart(result, own) < 0.5  # decoders of JPEG may differ by a level


def test_images_are_never_made_larger(tmp_path):
    assert resized(image(0, size=(100, 80)), 80, 95, 10**8) is None
    assert resized(image(0, size=(100, 81)), 80, 95, 10**8) is not None
    source = tmp_path / "in"
    source.mkdir()
    for name, size in (("large", (90, 60)), ("small", (30, 20))):
        (source / f"{name}.png").write_bytes(image(1, "png", size))
        (source / f"{name}.txt").write_text(name)
    assert packed(source, tmp_path / "out", making={"size": 40}).kinds == {"jpg": 1, "png": 1}
    found = by_source(tmp_path / "out")
    assert found["small.png"]["png"] == image(1, "png", (30, 20))
    assert Image.open(io.BytesIO(found["large.png"]["jpg"])).size == (60, 40)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_smaller_images_stand_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = image(3, "PNG", (90, 60), exif=exif)
    result = Image.open(io.BytesIO(resized(data, 20, 95, 10**8)))
    assert not result.getexif()
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert result.size == ((20, 30) if orientation > 4 else (30, 20))
    assert apart(result, upright.resize(result.size, Image.Resampling.BICUBIC)) < 0.5  # turned otherwise it is above 10


def test_quality_and_transparency():
    data = image(1, "png", (200, 200))
    assert len(resized(data, 100, 30, 10**8)) < len(resized(data, 100, 95, 10**8))
    clear = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    buffer = io.BytesIO()
    clear.save(buffer, "PNG")
    result = np.asarray(Image.open(io.BytesIO(resized(buffer.getvalue(), 20, 95, 10**8))))
    assert (result > 250).all()  # on white, as the trainer reads it


def test_what_is_too_large_is_not_decoded():
    with pytest.raises(Unreadable, match="too many pixels"):
        resized(image(1, size=(200, 200)), 100, 95, 39_999)
