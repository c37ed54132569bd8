"""Splits in shards, and what mask files mean."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from silc.data.images.decode import decode_image
from silc.data.shards import Unreadable
from silc.data.splits import (
    IGNORE,
    TarSplit,
    by_table,
    decode_mask,
    image_and_mask,
    numbered_from_one,
    numbered_from_zero,
)


def png(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "png")
    return buffer.getvalue()


def test_a_split_by_number(write_shards, make_config):
    images = {}

    def change(shard: int, number: int, sample: dict) -> None:
        images[shard, number] = sample["jpg"]
        sample["txt"] = f"one {number}\n\n two \n"
        sample["json"] = json.dumps({"class": number} if number else {}).encode()
        sample["mask.png"] = png(np.full((4, 5), number, np.uint8))
        if (shard, number) == (1, 2):
            sample["cls"] = b"3"
            sample["jpg"] = b"broken"

    split = TarSplit(make_config([]).data, write_shards([3, 4], change), title="mine", classes=4)
    assert len(split) == 7
    assert split.has == {"labels", "captions", "masks"}
    assert [split.key(n) for n in (0, 6)] == ["000/0000", "001/0003"]
    assert [split.label(n) for n in range(7)] == [None, 1, 2, None, 1, 3, 3]  # cls has precedence over the json
    assert split.captions(4) == ["one 1", "two"]
    assert torch.equal(split.image(6), decode_image(images[1, 3], 10**6))
    assert torch.equal(split.mask(6), torch.full((4, 5), 2))
    assert torch.equal(split.mask(0), torch.full((4, 5), IGNORE))
    with pytest.raises(Unreadable, match="undecodable"):
        split.image(5)


@pytest.mark.parametrize(
    ("member", "said"),
    [
        ({"json": b'{"class": "cat"}'}, "000/0001: its class is 'cat'"),
        ({"json": b'{"class": [1]}'}, r"000/0001: its class is \[1\]"),
        ({"json": b'{"class": true}'}, "000/0001: its class is True"),
        ({"json": b"[1]"}, "000/0001: its json is a list"),
        ({"cls": b"cat"}, "000/0001: its class is 'cat'"),
    ],
)
def test_a_label_that_is_no_class_number_is_named(write_shards, make_config, member, said):
    def change(shard: int, number: int, sample: dict) -> None:
        sample.update(member if number else {"json": b'{"class": "3"}'})

    split = TarSplit(make_config([]).data, write_shards([2], change), title="mine")
    assert split.label(0) == 3
    with pytest.raises(ValueError, match=said):
        split.label(1)


def test_a_json_that_cannot_be_read_is_no_label(write_shards, make_config):
    def change(shard: int, number: int, sample: dict) -> None:
        sample["json"] = b'{"class": ' if number else b'{"class": 1}'

    split = TarSplit(make_config([]).data, write_shards([2], change), title="mine")
    assert [split.label(0), split.label(1)] == [1, None]


def test_a_split_with_images_alone(write_shards, make_config):
    def strip(shard: int, number: int, sample: dict) -> None:
        del sample["txt"], sample["json"]

    split = TarSplit(make_config([]).data, write_shards([2], strip), title="mine")
    assert split.has == frozenset()
    assert split.label(0) is None
    assert split.captions(0) == []
    with pytest.raises(Unreadable, match="no mask"):
        split.mask(0)


def test_what_cannot_be_read_of_an_image_is_as_if_absent(write_shards, make_config):
    def spoil(shard: int, number: int, sample: dict) -> None:
        if number == 1:
            sample |= {"json": b"{", "txt": b"\xff\xfe", "mask.png": b"no image"}
        else:
            sample |= {"json": b'{"class": 5}', "mask.png": png(np.zeros((2, 2), np.uint8))}

    split = TarSplit(make_config([]).data, write_shards([2], spoil), title="mine", classes=9)
    assert (split.label(0), split.label(1)) == (5, None)
    assert split.captions(1) == []
    with pytest.raises(Unreadable, match="undecodable mask"):
        split.mask(1)


def test_single_objects_have_a_class(write_shards, make_config):
    def change(shard: int, number: int, sample: dict) -> None:
        sample["json"] = json.dumps({"objects": number + 1, "concept_ids": [7] * (number + 1)}).encode()

    shards = write_shards([2], change)
    split = TarSplit(make_config([]).data, shards, title="scenes", single_objects=True)
    assert [split.label(n) for n in range(2)] == [7, None]
    assert "labels" not in TarSplit(make_config([]).data, shards, title="scenes").has


def test_a_missing_shard_is_an_error(make_config):
    with pytest.raises(ValueError, match="no such file or folder"):
        TarSplit(make_config([]).data, ["/nowhere.tar"], title="mine")


def decoded(values: np.ndarray, rule, classes: int) -> list:
    return decode_mask(png(values), rule, classes, "m", 100).tolist()


def test_rules():
    assert decoded(np.array([[0, 1, 255, 3]], np.uint8), numbered_from_one(3), 3) == [[IGNORE, 0, IGNORE, 2]]
    assert decoded(np.array([[0, 1, 255, 2]], np.uint8), numbered_from_zero(3), 3) == [[0, 1, IGNORE, 2]]
    assert decoded(np.array([[7, 8, 0, 255]], np.uint8), by_table({7: 0, 8: 1}), 2) == [[0, 1, IGNORE, IGNORE]]
    assert decoded(np.array([[0, 300, 65535]], np.uint16), numbered_from_one(400), 400) == [[IGNORE, 299, IGNORE]]
    assert decoded(np.array([[255]], np.uint8), numbered_from_zero(256), 256) == [[255]]  # every value is a class
    assert decoded(np.array([[False, True]]), numbered_from_zero(2), 2) == [[0, 1]]


def test_palettes_are_for_the_eye(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
    image.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0] + [0] * 759)
    image.save(tmp_path / "m.png")
    values = np.array(Image.open(tmp_path / "m.png")).tolist()
    assert decode_mask((tmp_path / "m.png").read_bytes(), numbered_from_zero(3), 3, "m", 100).tolist() == values


@pytest.mark.parametrize("number", range(1, 9))
def test_a_mask_in_tiff_is_turned_as_an_image_in_tiff_is(number):
    """As by Pillow; the tag of other formats turns no mask."""
    image = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6))
    exif = Image.Exif()
    exif[274] = number
    expected = np.asarray(ImageOps.exif_transpose(image_of(image, "PNG", exif)))
    for kind, turned in (("TIFF", expected), ("PNG", np.asarray(image))):
        data = encoded(image, kind, exif)
        assert decode_mask(data, numbered_from_zero(256), 256, "m", 100).tolist() == turned.tolist()
        assert decode_image(data, 100)[..., 0].tolist() == turned.tolist()


def encoded(image: Image.Image, kind: str, exif: Image.Exif) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, exif=exif)
    return buffer.getvalue()


def image_of(image: Image.Image, kind: str, exif: Image.Exif) -> Image.Image:
    return Image.open(io.BytesIO(encoded(image, kind, exif)))


def test_a_mask_with_a_class_that_has_no_name_is_an_error():
    with pytest.raises(ValueError, match=r"mask of m has class 4, but the class list names 3 \(0 to 2\)"):
        decoded(np.array([[5]], np.uint8), numbered_from_one(3), 3)
    with pytest.raises(ValueError, match="has 3 channels"):
        decoded(np.zeros((2, 2, 3), np.uint8), numbered_from_one(3), 3)


def pair_of(write_shards, make_config, stored: tuple[int, int], number: int, mask: tuple[int, int], upright: bool):
    """The pair of a split of one: a JPEG whose left half is dark, with an orientation, and a mask; (height, width)."""
    values = np.full((*stored, 3), 250, np.uint8)
    values[:, : stored[1] // 2] = 10
    tags = Image.Exif()
    tags[274] = number
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "jpeg", exif=tags)

    def change(_shard: int, _number: int, sample: dict) -> None:
        sample["jpg"], sample["mask.png"] = buffer.getvalue(), png(np.zeros(mask, np.uint8))

    shards = write_shards([1], change)
    split = TarSplit(make_config([]).data, shards, title="mine", classes=4, upright=upright)
    assert split.orientation(0) == number
    return split, buffer.getvalue()


@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize(
    ("stored", "number", "mask", "turns"),
    [
        ((16, 32), 6, (32, 16), True),
        ((16, 32), 6, (16, 32), False),
        ((16, 32), 5, (32, 16), True),
        ((16, 32), 3, (16, 32), None),  # both have this size
        ((16, 32), 1, (16, 32), None),
        ((32, 32), 6, (32, 32), None),
    ],
)
def test_a_mask_decides_how_its_image_is_turned(write_shards, make_config, stored, number, mask, turns, upright):
    split, data = pair_of(write_shards, make_config, stored, number, mask, upright)
    image, classes = image_and_mask(split, 0)
    assert image.shape[:2] == classes.shape == mask
    assert torch.equal(image, decode_image(data, 10**6, upright=upright if turns is None else turns))
    assert torch.equal(split.image(0), decode_image(data, 10**6, upright=upright))  # of other tasks


@pytest.mark.parametrize(
    ("number", "mask", "upright", "said"),
    [
        (
            1,
            (32, 16),
            False,
            r"000/0000 is 16 x 32 pixels, its image 32 x 16: they do not .* \(a mask in TIFF",
        ),
        (3, (32, 16), True, r"is 16 x 32 pixels, its image 32 x 16 \(EXIF orientation 3\): they do not"),
        (6, (9, 8), False, r"is 8 x 9 pixels, its image 32 x 16 as stored, 16 x 32 otherwise \(EXIF orientation 6\)"),
        (8, (9, 8), True, r"is 8 x 9 pixels, its image 16 x 32 as shown, 32 x 16 otherwise \(EXIF orientation 8\)"),
    ],
)
def test_a_mask_of_another_size_is_an_error(write_shards, make_config, number, mask, upright, said):
    split, _ = pair_of(write_shards, make_config, (16, 32), number, mask, upright)
    with pytest.raises(ValueError, match=said):
        image_and_mask(split, 0)
