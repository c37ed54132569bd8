"""Crops of images of any sizes: bit for bit what torch's own CPU kernel makes of each region."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from silc_kernels import crop_resize
from silc_kernels.crops import naive, regions, torch_backend
from tests.kernels.crops.problems import LONG, MIXED, Problem, interpolated, problem


@st.composite
def cuts(draw) -> tuple[Problem, int]:
    """An image, some boxes in it, and a size: scales from 1/40 to 40."""
    height, width = draw(st.integers(1, 160)), draw(st.integers(1, 160))
    boxes = []
    for _ in range(draw(st.integers(1, 3))):
        rows, columns = draw(st.integers(1, height)), draw(st.integers(1, width))
        top, left = draw(st.integers(0, height - rows)), draw(st.integers(0, width - columns))
        boxes.append((draw(st.integers(0, 1)), top, left, rows, columns, draw(st.integers(0, 1))))
    size = draw(st.integers(1, 48))
    return problem([(height, width)] * 2, boxes, seed=draw(st.integers(0, 99))), size


@settings(deadline=None, max_examples=150)
@given(cuts())
def test_the_definition_and_plain_torch_are_torchs_own_kernel(drawn):
    arguments, size = drawn
    expected = interpolated(arguments, size)
    assert torch.equal(naive.crop_resize(*arguments, size), expected)
    assert torch.equal(crop_resize(*arguments, size, backend="torch"), expected)


@settings(deadline=None, max_examples=50)
@given(cuts())
def test_matrices_of_whole_numbers_give_the_same(drawn):
    """What plain torch computes where it has no kernel for bytes."""
    (pixels, _, sizes, *_), size = drawn
    height, width = sizes[0].tolist()
    region = pixels[: 3 * height * width].view(height, width, 3).permute(2, 0, 1)
    expected = torch.nn.functional.interpolate(region[None], (size, size), mode="bicubic", antialias=True)[0]
    assert torch.equal(torch_backend.by_matrices(region, size), expected)


@pytest.mark.parametrize("arguments", [MIXED, LONG], ids=["mixed", "long"])
@pytest.mark.parametrize("size", [1, 16, 33])
def test_several_images_with_gaps_between(arguments, size):
    expected = interpolated(arguments, size)
    assert torch.equal(naive.crop_resize(*arguments, size), expected)
    assert torch.equal(crop_resize(*arguments, size), expected)


def test_it_is_pillows_bicubic_to_a_level():
    """Pillow rounds its weights at another precision."""
    arguments = problem([(90, 70)], [(0, 5, 10, 80, 50, 0)])
    image = Image.fromarray(arguments.pixels.view(90, 70, 3).numpy())
    theirs = image.resize((32, 32), Image.Resampling.BICUBIC, box=(10, 5, 60, 85), reducing_gap=None)
    pillow = torch.frombuffer(bytearray(theirs.tobytes()), dtype=torch.uint8).view(32, 32, 3).permute(2, 0, 1)
    # With a box it takes pixels from beyond it, so that edges differ.
    apart = (crop_resize(*arguments, 32)[0].int() - pillow.int()).abs()[:, 4:-4, 4:-4]
    assert int(apart.max()) <= 1


def test_a_strip_at_a_time(monkeypatch):
    region = torch.randint(0, 256, (3, 37, 20), dtype=torch.uint8)
    whole = torch_backend.by_matrices(region, 16)
    monkeypatch.setattr(torch_backend, "STRIP", 3 * 20 * 5)
    assert torch.equal(torch_backend.by_matrices(region, 16), whole)


def test_into_a_given_tensor_and_no_views():
    out = torch.empty(8, 3, 16, 16, dtype=torch.uint8)
    assert crop_resize(*MIXED, 16, out=out) is out
    assert torch.equal(out, interpolated(MIXED, 16))
    none = problem([(2, 2)], [])
    assert crop_resize(*none, 16).shape == (0, 3, 16, 16)
    many = problem([(2, 2)] * (regions.FEW + 1), [])
    assert crop_resize(*many, 16).shape == (0, 3, 16, 16)
    with pytest.raises(ValueError, match="image 0 of 2 x 2"):
        crop_resize(*none._replace(pixels=none.pixels[1:]), 16)


def changed(**fields) -> Problem:
    return MIXED._replace(**fields)


BOXES = MIXED.boxes


@pytest.mark.parametrize(
    ("arguments", "size", "said"),
    [
        (changed(pixels=MIXED.pixels.float()), 16, "contiguous uint8 tensor of one dimension"),
        (changed(pixels=MIXED.pixels[::2]), 16, "contiguous uint8 tensor of one dimension"),
        (MIXED, 0, "size is 0"),
        (MIXED, 16.0, "size is 16.0"),
        (changed(sizes=MIXED.sizes.int()), 16, "sizes is torch.int32"),
        (changed(flips=MIXED.flips[:3]), 16, r"flips is torch.bool \[3\]; it must be torch.bool \[8\]"),
        (changed(boxes=BOXES.to("meta")), 16, "boxes is on meta; where to cut is given on the CPU"),
        (changed(index=MIXED.index + 1), 16, "there are 4 images"),
        (changed(index=MIXED.index - 1), 16, r"index\[0\] is -1"),
        (changed(pixels=MIXED.pixels[:-1]), 16, "image 3 of 64 x 33 pixels"),
        (changed(offsets=MIXED.offsets - 6), 16, "image 0 of 40 x 60 pixels from byte -1"),
        (changed(sizes=MIXED.sizes * 2**40), 16, "image 0 of"),
        (changed(boxes=BOXES + torch.tensor([0, 1, 0, 0])), 16, r"boxes\[0\] .* is \[0, 1, 40, 60\], not within its"),
        (changed(boxes=BOXES * torch.tensor([1, 1, 0, 1])), 16, r"boxes\[0\] .* is \[0, 0, 0, 60\]"),
        (changed(boxes=BOXES - torch.tensor([1, 0, 0, 0])), 16, r"boxes\[0\] .* is \[-1, 0, 40, 60\]"),
        (changed(boxes=BOXES + torch.tensor([0, 0, 2**62, 0])), 16, r"boxes\[0\]"),
    ],
)
@pytest.mark.parametrize("few", [regions.FEW, 0], ids=["few", "many"])
def test_a_mistake_is_named(arguments, size, said, few, monkeypatch):
    monkeypatch.setattr(regions, "FEW", few)
    with pytest.raises(ValueError, match=said):
        crop_resize(*arguments, size)


@pytest.mark.parametrize("out", [torch.empty(8, 3, 16, 16), torch.empty(8, 3, 16, 17, dtype=torch.uint8)[..., :16]])
def test_a_wrong_place_to_write_to(out):
    with pytest.raises(ValueError, match="it must be contiguous uint8"):
        crop_resize(*MIXED, 16, out=out)
