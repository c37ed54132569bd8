"""JPEGs decode to the pixels of torchvision, bit for bit, and to Pillow's; the same damaged files are refused."""

from __future__ import annotations

import io
import random
import re
from collections import Counter

import numpy as np
import pytest
import simplejpeg
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

from silc.data.images import jpeg
from silc.data.images.decode import decode_image
from silc.data.shards import Unreadable
from tests.data.images.image_fuzz import encode, mutated

LIMIT = 200_000
USUAL = {"444", "422", "420", "411", "gray"}


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((width, height))


def by_torchvision(data: bytes) -> torch.Tensor:
    """[H, W, 3]. Raises RuntimeError."""
    return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB).permute(1, 2, 0)


def by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@given(
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    sampling=st.sampled_from(["444", "422", "420", "440", "411", "gray"]),
    quality=st.sampled_from([1, 5, 10, 20, 35, 50, 65, 75, 85, 90, 95, 100]),
    seed=st.integers(0, 99),
)
@settings(max_examples=400, deadline=None)
def test_every_sampling_and_quality_decodes_to_torchvisions_pixels(width, height, sampling, quality, seed):
    space = "GRAY" if sampling == "gray" else "RGB"
    values = np.ascontiguousarray(np.asarray(picture(width, height, seed).convert("L" if space == "GRAY" else "RGB")))
    values = values.reshape(height, width, -1)
    data = simplejpeg.encode_jpeg(values, quality, space, "444" if space == "GRAY" else sampling)
    assert jpeg.read_header(data).alike == (sampling in USUAL)
    assert torch.equal(decode_image(data, LIMIT), by_torchvision(data))


@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    mode=st.sampled_from(["RGB", "L", "CMYK"]),
    options=st.fixed_dictionaries(
        {"quality": st.integers(1, 100), "progressive": st.booleans(), "subsampling": st.sampled_from([0, 1, 2])},
        optional={"restart_marker_blocks": st.integers(1, 5), "optimize": st.just(True), "keep_rgb": st.just(True)},
    ),
)
@settings(max_examples=400, deadline=None)
def test_what_pillow_writes_decodes_to_torchvisions_pixels_and_pillows(size, mode, options):
    if mode != "RGB" or options["subsampling"]:
        options.pop("keep_rgb", None)
    data = encode(picture(*size).convert(mode), "JPEG", **options)
    found = decode_image(data, LIMIT)
    assert jpeg.read_header(data).alike == (mode != "CMYK" and not options["progressive"])
    assert torch.equal(found, by_torchvision(data))
    assert np.array_equal(found.numpy(), by_pillow(data))


@pytest.mark.parametrize("transform", [0, 1, 2, None])
def test_cmyk_and_ycck_are_inverted_as_adobe_writes_them(transform):
    """transform: in the Adobe segment, 2 for YCCK; None: without the segment."""
    data = bytearray(encode(picture(61, 47).convert("CMYK"), "JPEG"))
    at = data.index(b"\xff\xee\0\x0eAdobe")
    if transform is None:
        del data[at : at + 16]
    else:
        data[at + 15] = transform
    found = decode_image(bytes(data), LIMIT).numpy().astype(int)
    assert np.array_equal(found, by_pillow(bytes(data)))
    if transform == 0:
        assert np.abs(found - np.asarray(picture(61, 47)).astype(int)).mean() < 6


def test_an_image_whose_last_scans_are_missing_is_smoothed_as_before():
    data = encode(picture(64, 48), "JPEG", progressive=True)
    scans = [found.start() for found in re.finditer(b"\xff\xda", data)]
    for end in scans[1:]:
        cut = data[:end] + b"\xff\xd9"
        assert torch.equal(decode_image(cut, LIMIT), by_torchvision(cut))


def sources() -> list[bytes]:
    image = picture(61, 47)
    kinds = [{}, {"progressive": True}, {"restart_marker_blocks": 3}, {"subsampling": 1, "quality": 40}]
    kinds += [{"optimize": True}, {"keep_rgb": True}, {"progressive": True, "restart_marker_blocks": 2}]
    return [
        *(encode(image, "JPEG", **options) for options in kinds),
        *(encode(image.convert(mode), "JPEG") for mode in ("L", "CMYK")),
        simplejpeg.encode_jpeg(np.ascontiguousarray(image), 80, "RGB", "440"),
    ]


def outcome(data: bytes) -> str:
    """What comes of a damaged file; AssertionError where torchvision, on its own, does otherwise."""
    header = jpeg.read_header(data)
    if header is None or header.width * header.height > LIMIT or header.scans > jpeg.SCANS:
        with pytest.raises(Unreadable):
            decode_image(data, LIMIT)
        return "not asked"
    try:
        expected = by_torchvision(data)
    except RuntimeError:
        with pytest.raises(Unreadable):
            decode_image(data, LIMIT)
        return "refused"
    assert torch.equal(decode_image(data, LIMIT), expected)
    return "decoded"


def test_damaged_files_are_refused_where_torchvision_refuses_them():
    outcomes: Counter[str] = Counter()
    files = sources()
    for number in range(1500):
        rng = random.Random(number)
        outcomes[outcome(mutated(files[number % len(files)], rng))] += 1
    assert min(outcomes["decoded"], outcomes["refused"], outcomes["not asked"]) > 100


@given(file=st.sampled_from(sources()), cut=st.integers(2, 3000), tail=st.sampled_from([b"", b"\xff\xd9", bytes(9)]))
@example(file=sources()[0], cut=3000, tail=b"")
@settings(max_examples=200, deadline=None)
def test_files_that_are_cut_are_refused_where_torchvision_refuses_them(file, cut, tail):
    outcome(file[:cut] + tail)


def test_the_frame_says_what_all_versions_decode_alike():
    data = encode(picture(16, 16), "JPEG")
    at = data.index(b"\xff\xc0")
    assert jpeg.read_header(data).alike
    for place, value in ((at + 4, 12), (at + 11, 0x12), (at + 14, 0x21), (at + 1, 0xC2)):
        other = bytearray(data)
        other[place] = value
        found = jpeg.read_header(bytes(other))
        assert found is not None
        assert not found.alike
