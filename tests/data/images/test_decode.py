"""Images decode as Pillow decodes them; the reasons for which others cannot be used."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from silc.data.images import decode
from silc.data.images.decode import decode_image
from silc.data.shards import Unreadable

LIMIT = 10_000


def encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def image() -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)).resize((50, 37), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    ("mode", "kind", "options", "slack"),
    [
        ("RGB", "jpeg", {"quality": 90}, 3),
        ("RGB", "jpeg", {"quality": 90, "progressive": True}, 3),
        ("L", "jpeg", {}, 3),
        ("CMYK", "jpeg", {}, 3),
        ("RGB", "png", {}, 0),
        ("RGBA", "png", {}, 0),
        ("P", "png", {}, 0),
        ("L", "png", {}, 0),
        ("RGB", "webp", {}, 0),
        ("RGBA", "webp", {"lossless": True}, 0),
        ("P", "gif", {}, 0),
        ("1", "bmp", {}, 0),
        ("P", "bmp", {}, 0),
        ("RGB", "bmp", {}, 0),
        ("RGB", "tiff", {}, 0),
        ("RGB", "tiff", {"compression": "tiff_lzw"}, 0),
        ("P", "tiff", {"compression": "tiff_adobe_deflate"}, 0),
        ("CMYK", "tiff", {"compression": "packbits"}, 0),
        ("RGB", "avif", {}, 0),
    ],
)
def test_images_agree_with_pillow(image, mode, kind, options, slack):
    data = encode(image.convert(mode), kind, **options)
    image = decode_image(data, LIMIT)
    assert image.dtype == torch.uint8
    assert image.shape == (37, 50, 3)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(image.numpy().astype(int) - expected).max() <= slack


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff", "avif"])
def test_colour_profiles_are_ignored(image, kind):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    data = encode(image, kind, icc_profile=profile)
    assert Image.open(io.BytesIO(data)).info["icc_profile"] == profile
    assert torch.equal(decode_image(data, LIMIT), decode_image(encode(image, kind), LIMIT))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.uint16([[0, 257, 25700], [32896, 65535, 100]]), "png"),  # modes I;16 or I, by the version of Pillow
        (np.int32([[0, 257, 25700], [32896, 65535, 100]]), "tiff"),  # mode I
        (np.float32([[0, 1 / 255, 100 / 255], [128 / 255, 1, 0]]), "tiff"),  # mode F
    ],
)
def test_deep_greys_become_8_bits(values, kind):
    image = decode_image(encode(Image.fromarray(values), kind), LIMIT)
    assert image.tolist() == [[[grey] * 3 for grey in row] for row in ([0, 1, 100], [128, 255, 0])]


def test_floating_point_values_of_unknown_range_are_refused():
    with pytest.raises(Unreadable, match="beyond 0 to 1"):
        decode_image(encode(Image.fromarray(np.float32([[0, 300]])), "tiff"), LIMIT)


def test_what_is_transparent_lies_on_white():
    rgba = np.uint8([[[200, 0, 0, 255], [200, 0, 0, 0], [0, 0, 0, 51]]])
    expected = [[[200, 0, 0], [255, 255, 255], [204, 204, 204]]]
    for kind, options in (("png", {}), ("webp", {"lossless": True, "exact": True})):
        assert decode_image(encode(Image.fromarray(rgba), kind, **options), LIMIT).tolist() == expected
    grey = Image.fromarray(np.uint8([[[7, 255], [7, 0]]]), "LA")
    assert decode_image(encode(grey, "png"), LIMIT).tolist() == [[[7] * 3, [255] * 3]]
    palette = Image.fromarray(np.uint8([[0, 1]]), "P")
    palette.putpalette([9, 8, 7, 1, 2, 3])
    assert decode_image(encode(palette, "png", transparency=1), LIMIT).tolist() == [[[9, 8, 7], [255] * 3]]


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "gif", "bmp", "tiff", "avif"])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_cut_images_are_refused(image, kind, share):
    data = encode(image, kind)
    with pytest.raises(Unreadable, match="undecodable image"):
        decode_image(data[: int(len(data) * share)], LIMIT)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xff\xff", b"not an image", bytes(1000), b"<svg/>"])
def test_garbage_is_refused(data):
    with pytest.raises(Unreadable, match="undecodable image"):
        decode_image(data, LIMIT)


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_too_many_pixels_are_refused_unread(image, kind, monkeypatch):
    def decodes(*_args, **_keywords):
        raise AssertionError("decoded")

    data = encode(image, kind)
    monkeypatch.setattr(decode, "decode_jpeg", decodes)
    monkeypatch.setattr("simplejpeg.decode_jpeg", decodes)
    monkeypatch.setattr(Image.Image, "convert", decodes)
    with pytest.raises(Unreadable, match="too many pixels"):
        decode_image(data, 37 * 50 - 1)


def test_an_image_at_the_limit_passes(image):
    assert decode_image(encode(image, "jpeg"), 37 * 50).shape == (37, 50, 3)


def test_a_bomb_is_refused(image):
    data = bytearray(encode(image, "jpeg"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = b"\xff\xff\xff\xff"  # 65535 x 65535 pixels
    with pytest.raises(Unreadable, match="too many pixels"):
        decode_image(bytes(data), 89_478_485)


def test_no_image():
    with pytest.raises(Unreadable, match="no image"):
        decode_image(None, LIMIT)
