"""Pictures decode as Pillow decodes them; what cannot be used is told apart by its reason."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from silc.data import decode
from silc.data.decode import decode_caption, decode_picture
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
    ],
)
def test_pictures_agree_with_pillow(image, mode, kind, options, slack):
    data = encode(image.convert(mode), kind, **options)
    picture = decode_picture(data, LIMIT)
    assert picture.dtype == torch.uint8
    assert picture.shape == (37, 50, 3)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(picture.numpy().astype(int) - expected).max() <= slack


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_cut_pictures_are_refused(image, kind, share):
    data = encode(image, kind)
    with pytest.raises(Unreadable, match="undecodable picture"):
        decode_picture(data[: int(len(data) * share)], LIMIT)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xff\xff", b"not a picture", bytes(1000), b"<svg/>"])
def test_garbage_is_refused(data):
    with pytest.raises(Unreadable, match="undecodable picture"):
        decode_picture(data, LIMIT)


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_too_many_pixels_are_refused_unread(image, kind, monkeypatch):
    def decodes(*_args, **_keywords):
        raise AssertionError("decoded")

    data = encode(image, kind)
    monkeypatch.setattr(decode, "decode_jpeg", decodes)
    monkeypatch.setattr(Image.Image, "convert", decodes)
    with pytest.raises(Unreadable, match="too many pixels"):
        decode_picture(data, 37 * 50 - 1)


def test_a_picture_at_the_limit_passes(image):
    assert decode_picture(encode(image, "jpeg"), 37 * 50).shape == (37, 50, 3)


def test_a_bomb_is_refused(image):
    data = bytearray(encode(image, "jpeg"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = b"\xff\xff\xff\xff"  # 65535 x 65535 pixels
    with pytest.raises(Unreadable, match="too many pixels"):
        decode_picture(bytes(data), 89_478_485)


def test_no_picture():
    with pytest.raises(Unreadable, match="no picture"):
        decode_picture(None, LIMIT)


def test_captions():
    assert decode_caption(b"  a caf\xc3\xa9\n") == "a caf\u00e9"
    for data, reason in ((None, "no caption"), (b" \n", "empty caption"), (b"\xff\xfe", "not utf-8")):
        with pytest.raises(Unreadable, match=reason):
            decode_caption(data)
