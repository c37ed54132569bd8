"""The photometric list in plain torch against its definition, and the definition against torchvision and colorsys."""

import colorsys
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as tv

from silc_kernels import photometric
from silc_kernels.photometry import naive, torch_backend
from silc_kernels.photometry.parameters import ORDERS
from tests.kernels.photometry.problems import differing, row, rows, views

SHARE = 0.001  # of levels that a float32 may round to the other side of a half


def torchvision(view, given):
    """The list by torchvision's operations on float64 in [0, 1]."""
    brightness, contrast, saturation, hue, order, grey, sigma, solarize = given
    x = view.double() / 255
    steps = {
        "brightness": lambda x: tv.adjust_brightness(x, brightness),
        "contrast": lambda x: tv.adjust_contrast(x, contrast),
        "saturation": lambda x: tv.adjust_saturation(x, saturation),
        "hue": lambda x: tv.adjust_hue(x, hue),
    }
    for name in list(itertools.permutations(steps))[int(order)] if order >= 0 else ():
        x = steps[name](x)
    x = tv.rgb_to_grayscale(x, 3) if grey else x
    x = tv.gaussian_blur(x, 2 * max(1, round(3 * sigma)) + 1, sigma) if sigma else x
    x = tv.solarize(x, 128 / 255) if solarize else x
    return (255 * x).round().to(torch.uint8)


def test_the_definition_is_torchvisions_on_floats():
    given, parameters = views(75, 3, 15, 18), rows(75)
    theirs = [torchvision(view, one) for view, one in zip(given, parameters.tolist(), strict=True)]
    # Their scale of 0 to 1 rounds other last digits.
    assert differing(naive.photometric(given, parameters), torch.stack(theirs)) < SHARE


@pytest.mark.parametrize("turns", [-0.5, -0.1, -1e-20, 0.03, 0.1, 0.5])
def test_hue_is_colorsys(turns):
    given = views(1, 3, 16, 16)
    turned = naive.photometric(given, row(order=0, hue=turns))
    for before, after in zip(given[0].flatten(1).t().tolist(), turned[0].flatten(1).t().tolist(), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(level / 255 for level in before))
        expected = colorsys.hsv_to_rgb((hue + float(torch.tensor(turns))) % 1, saturation, value)
        assert all(abs(255 * level - mine) < 0.5 + 1e-6 for level, mine in zip(expected, after, strict=True))


@pytest.mark.parametrize("shape", [(100, 3, 24, 24), (25, 3, 9, 31), (25, 3, 4, 3), (3, 3, 1, 1)], ids=str)
def test_every_list_is_within_a_level(shape):
    given, parameters = views(*shape), rows(shape[0])
    assert differing(photometric(given, parameters, backend="torch"), naive.photometric(given, parameters)) < SHARE


@st.composite
def lists(draw) -> tuple[torch.Tensor, torch.Tensor]:
    """Views of any shape, and rows anywhere within their bounds."""
    count, height, width = draw(st.integers(1, 4)), draw(st.integers(1, 20)), draw(st.integers(1, 20))
    factor, coin = st.floats(0, 8, width=32), st.integers(0, 1)
    row = st.tuples(factor, factor, factor, st.floats(-1, 1, width=32), st.integers(-1, 23), coin)
    ends = st.tuples(st.just(0.0) | st.floats(1 / 16, 2, width=32), coin)
    drawn = [[*draw(row), *draw(ends)] for _ in range(count)]
    return views(count, 3, height, width, seed=draw(st.integers(0, 99))), torch.tensor(drawn)


@settings(deadline=None, max_examples=150)
@given(lists())
def test_any_list_is_within_a_level(drawn):
    given, parameters = drawn
    differing(photometric(given, parameters, backend="torch"), naive.photometric(given, parameters))


@pytest.mark.parametrize(
    "alone",
    [
        {"order": 0, "brightness": 1.4},
        {"order": 6, "contrast": 0.6},
        {"order": 12, "saturation": 1.2},
        {"order": 18, "hue": -0.1},
        {"grey": 1},
        {"sigma": 0.1},
        {"sigma": 0.5},
        {"sigma": 2.0},
        {"solarize": 1},
        {"order": 23, "brightness": 8, "contrast": 8, "saturation": 8, "hue": 1, "sigma": 2, "solarize": 1},
        {"order": 3, "brightness": 0, "contrast": 0, "saturation": 0, "hue": -1},
    ],
    ids=str,
)
def test_each_step_alone_and_its_extremes(alone):
    given = views(1, 3, 20, 20)
    assert differing(photometric(given, row(**alone)), naive.photometric(given, row(**alone))) < 0.01


def test_nothing_is_done_where_nothing_is_asked_for():
    given = views(2, 3, 8, 8)
    assert torch.equal(photometric(given, row().expand(2, -1).contiguous()), given)
    factors = row(order=5)  # all four steps, and none changes a level
    assert torch.equal(photometric(given[:1], factors), given[:1])


def test_solarization_of_the_levels_around_its_threshold():
    given = torch.tensor([0, 127, 128, 255], dtype=torch.uint8).expand(1, 3, 1, 4).contiguous()
    assert photometric(given, row(solarize=1))[0, 0, 0].tolist() == [0, 127, 127, 0]


def test_in_place_and_beside():
    given, parameters = views(25, 3, 12, 12), rows(25)
    before = given.clone()
    beside = photometric(given, parameters)
    assert torch.equal(given, before)
    over = photometric(given, parameters, inplace=True)
    assert over.data_ptr() == given.data_ptr()
    assert torch.equal(over, beside)


def test_views_in_parts_are_the_views_at_once(monkeypatch):
    """Memory is bounded whatever the number of views; no view sees another."""
    given, parameters = views(60, 3, 12, 12), rows(60)
    whole = photometric(given, parameters)
    monkeypatch.setattr(torch_backend, "CHUNK_ELEMENTS", 3 * 12 * 12 * 2)
    assert torch.equal(photometric(given, parameters), whole)
    alone = [photometric(given[i : i + 1], parameters[i : i + 1]) for i in range(60)]
    assert torch.equal(torch.cat(alone), whole)


def test_no_views():
    assert photometric(views(1, 3, 8, 8)[:0], rows(1)[:0]).shape == (0, 3, 8, 8)


def test_the_order_is_that_of_itertools():
    assert list(ORDERS) == list(itertools.permutations(range(4)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v, p: (v.float(), p), "views are torch.float32"),
        (lambda v, p: (None, p), "views are None"),
        (lambda v, p: (v[0], p), "must be .n, 3, H, W."),
        (lambda v, p: (v.permute(0, 1, 3, 2), p), "not contiguous"),
        (lambda v, p: (v, p.double()), "parameters are torch.float64"),
        (lambda v, p: (v, p[:1]), r"parameters has shape \[1, 8\]"),
        (
            lambda v, p: (v, torch.cat([p[:1], row(sigma=2.5)])),
            r"parameters\[1, 6\] is 2.5; sigma must be a number from 0",
        ),
        (
            lambda v, p: (v, torch.cat([p[:1], row(order=2.5)])),
            r"\[1, 4\] is 2.5; order must be a whole number from -1",
        ),
        (lambda v, p: (v, torch.cat([p[:1], row(order=24)])), r"\[1, 4\] is 24"),
        (lambda v, p: (v, torch.cat([p[:1], row(contrast=float("nan"))])), r"\[1, 1\] is nan; contrast"),
        (lambda v, p: (v, torch.cat([p[:1], row(brightness=-0.1)])), r"\[1, 0\] is -0.1; brightness"),
        (lambda v, p: (v, torch.cat([p[:1], row(grey=0.5)])), "grey must be a whole number"),
    ],
)
def test_a_mistake_is_named(change, said):
    given, parameters = change(views(2, 3, 8, 9), rows(2))
    with pytest.raises(ValueError, match=said):
        photometric(given, parameters)


def test_the_operator_passes_opcheck():
    photometric(views(1, 3, 8, 8), rows(1))  # defines it
    torch.library.opcheck(torch.ops.silc_kernels.photometric_torch, (views(2, 3, 8, 8), rows(2)))
