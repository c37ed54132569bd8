"""The photometric list is drawn as it always was, and done as it is defined: in real numbers, rounded once."""

from __future__ import annotations

import colorsys
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as tv

from silc.data.randomness import Purpose, uniform_rows
from silc.data.views.distort import distort_
from silc.data.views.photometric import GLOBAL, LOCAL, PARAMETERS, WIDTH, Recipe, parameters

NAMES = ("brightness", "contrast", "saturation", "hue", "order", "grey", "sigma", "solarize")
NOTHING = {"brightness": 1, "contrast": 1, "saturation": 1, "hue": 0, "order": -1, "grey": 0, "sigma": 0, "solarize": 0}
ORDERS = list(itertools.permutations(NAMES[:4]))
RGB = np.array([0.2989, 0.587, 0.114])


def row_of(**numbers: float) -> np.ndarray:
    return np.array([(NOTHING | numbers)[name] for name in NAMES], dtype=np.float32)


def defined(view: np.ndarray, row: np.ndarray) -> np.ndarray:
    """The list in fp64 as photometric.py defines it, hue by the standard library; [3, R, R], not rounded."""
    told = dict(zip(NAMES, row.tolist(), strict=True))
    x = view.astype(np.float64)
    for step in ORDERS[int(told["order"])] if told["order"] >= 0 else ():
        x = globals()[f"exact_{step}"](x, told[step])
    if told["grey"]:
        x = np.broadcast_to(grey_of(x), x.shape)
    if told["sigma"]:
        x = exact_blur(x, told["sigma"])
    return np.where(x >= 128, 255 - x, x) if told["solarize"] else x


def grey_of(x: np.ndarray) -> np.ndarray:
    return np.tensordot(RGB, x, 1)


def exact_brightness(x: np.ndarray, factor: float) -> np.ndarray:
    return np.clip(factor * x, 0, 255)


def exact_contrast(x: np.ndarray, factor: float) -> np.ndarray:
    return np.clip(factor * x + (1 - factor) * grey_of(x).mean(), 0, 255)


def exact_saturation(x: np.ndarray, factor: float) -> np.ndarray:
    return np.clip(factor * x + (1 - factor) * grey_of(x), 0, 255)


def exact_hue(x: np.ndarray, turns: float) -> np.ndarray:
    pixels = []
    for colour in x.reshape(3, -1).T / 255:
        h, s, v = colorsys.rgb_to_hsv(*colour)
        pixels.append(colorsys.hsv_to_rgb((h + turns) % 1, s, v))
    return 255 * np.array(pixels).T.reshape(x.shape)


def exact_blur(x: np.ndarray, sigma: float) -> np.ndarray:
    radius = max(1, round(3 * sigma))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    for axis in (1, 2):
        padded = np.pad(x, [(radius, radius) if a == axis else (0, 0) for a in range(3)], mode="reflect")
        x = np.lib.stride_tricks.sliding_window_view(padded, len(taps), axis) @ (taps / taps.sum())
    return x


def noise(size: int, seed: int) -> np.ndarray:
    """Noise of all colours, or of few: black, white, greys and pure hues lie on the corners of the hexcone."""
    rng = np.random.default_rng(seed)
    wide = rng.integers(0, 256, (3, size, size))
    few = rng.choice([0, 1, 127, 128, 254, 255], (3, size, size))
    return np.where(rng.random((size, size)) < 0.7, wide, few).astype(np.uint8)


def done(view: np.ndarray, row: np.ndarray) -> np.ndarray:
    out = torch.from_numpy(view.copy())[None]
    distort_(out, row[None])
    return out[0].numpy()


def check(view: np.ndarray, row: np.ndarray) -> None:
    """Rounded to the nearest level; a number within 0.002 of the middle between two may be rounded to either."""
    exact = defined(view, row)
    off = np.abs(done(view, row) - exact)
    # Where solarizing turns the scale over, levels on both sides of it are neighbours.
    limit = np.where(np.abs(exact - 127.5) < 0.51, 1.002, 0.502) if row[-1] else 0.502
    assert (off <= limit).all()


def rows() -> st.SearchStrategy[np.ndarray]:
    def factor(strength: float) -> st.SearchStrategy[float]:
        return st.floats(1 - strength, 1 + strength)

    return st.builds(
        row_of,
        brightness=factor(0.4),
        contrast=factor(0.4),
        saturation=factor(0.4),
        hue=st.floats(-1 / 6, 1 / 6),
        order=st.integers(-1, 23),
        grey=st.sampled_from([0, 0, 0, 1]),
        sigma=st.just(0.0) | st.floats(0.1, 2.0),
        solarize=st.integers(0, 1),
    )


@given(row=rows(), size=st.integers(7, 40), seed=st.integers(0, 10**6))
@settings(max_examples=100, deadline=None)
def test_the_list_is_done_as_defined(row, size, seed):
    check(noise(size, seed), row)


@pytest.mark.parametrize("order", range(24))
def test_every_order_of_the_jitter(order):
    for factors in ((1.4, 1.4, 1.2, 0.1), (0.6, 1.3, 0.8, -0.1), (1.2, 0.7, 1.2, 0.03)):
        check(noise(16, order), row_of(order=order, **dict(zip(NAMES, factors, strict=False))))


# An operation alone: a jitter of one factor, whose other factors change nothing.
ALONE = [
    *({"order": 0, name: value} for name in NAMES[:3] for value in (0.0, 0.6, 1.0, 1.4, 3.0)),
    *({"order": 0, "hue": value} for value in (-1 / 6, -0.1, -0.01, 0.0, 0.05, 0.1, 1 / 6)),
    *({"sigma": value} for value in (0.1, 0.4, 0.9, 1.5, 2.0)),
    {"grey": 1},
    {"solarize": 1},
]


@pytest.mark.parametrize("numbers", ALONE, ids=str)
def test_an_operation_alone(numbers):
    for size in (7, 16, 50):  # of the blur: fewer pixels than a block, as many, and several blocks with a rest
        check(noise(size, seed=size), row_of(**numbers))


@pytest.mark.parametrize("numbers", ALONE, ids=str)
def test_an_operation_is_torchvisions(numbers):
    view, row = noise(32, seed=3), row_of(**numbers)
    told = dict(zip(NAMES, row.tolist(), strict=True))
    x = torch.from_numpy(view).double() / 255
    if told["order"] >= 0:
        x = tv.adjust_brightness(x, told["brightness"])
        x = tv.adjust_contrast(x, told["contrast"])
        x = tv.adjust_saturation(x, told["saturation"])
        x = tv.adjust_hue(x, told["hue"])
    if told["grey"]:
        x = tv.rgb_to_grayscale(x, num_output_channels=3)
    if told["sigma"]:
        x = tv.gaussian_blur(x, 2 * max(1, round(3 * told["sigma"])) + 1, told["sigma"])
    if told["solarize"]:
        x = tv.solarize(x, 128 / 255)
    assert np.abs(done(view, row) - 255 * x.numpy()).max() <= 0.51


def test_nearly_all_levels_are_the_defined_ones():
    """In float32 a number is rarely so near the middle between two levels that it is rounded to the other one."""
    drawn = [parameters(u, recipe) for u in uniform_rows(0, Purpose.CROPS, 0, 60, WIDTH).tolist() for recipe in GLOBAL]
    others = total = 0
    for seed, row in enumerate(np.array(drawn, dtype=np.float32)):
        view = noise(24, seed)
        others += np.count_nonzero(done(view, row) != np.rint(defined(view, row)))
        total += view.size
    assert others / total < 1e-4


def test_views_do_not_touch_each_other():
    views = torch.from_numpy(np.stack([noise(20, seed) for seed in range(30)]))
    drawn = [parameters(u, Recipe(0.5, 0.5)) for u in uniform_rows(0, Purpose.CROPS, 9, 30, WIDTH).tolist()]
    many = np.array(drawn, dtype=np.float32)
    together = views.clone()
    distort_(together, many)
    for i, row in enumerate(many):
        assert np.array_equal(together[i].numpy(), done(views[i].numpy(), row))
    assert not torch.equal(together, views)
    distort_(views[:0], many[:0])


def test_nothing_is_nothing():
    view = noise(20, 0)
    assert np.array_equal(done(view, row_of()), view)


ALWAYS, NEVER = 0.0, 1.0  # a number below, above every probability
FULL = Recipe(blur=1.0, solarize=1.0)


def drawn_from(recipe: Recipe = FULL, **numbers: float) -> dict[str, float]:
    names = ("jitter", *NAMES[:4], "order", "grey", "blur", "sigma", "solarize")
    u = dict.fromkeys(names, 0.5) | {"jitter": NEVER, "grey": NEVER, "blur": NEVER, "solarize": NEVER} | numbers
    row = parameters([u[name] for name in names], recipe)
    assert len(row) == PARAMETERS
    assert len(names) == WIDTH
    return dict(zip(NAMES, row, strict=True))


def test_what_is_drawn():
    assert drawn_from() == NOTHING
    assert drawn_from(jitter=ALWAYS) == NOTHING | {"order": 12}
    strong = drawn_from(jitter=ALWAYS, brightness=0, contrast=0, saturation=0, hue=0, order=0)
    assert strong == pytest.approx(
        NOTHING | {"brightness": 0.6, "contrast": 0.6, "saturation": 0.8, "hue": -0.1, "order": 0}
    )
    assert drawn_from(grey=ALWAYS) == NOTHING | {"grey": 1}
    assert drawn_from(solarize=ALWAYS) == NOTHING | {"solarize": 1}
    assert drawn_from(blur=ALWAYS, sigma=0) == pytest.approx(NOTHING | {"sigma": 0.1})
    assert drawn_from(blur=ALWAYS, sigma=0.5) == pytest.approx(NOTHING | {"sigma": 1.05})


def test_probabilities_are_dinos():
    u = uniform_rows(5, Purpose.CROPS, 0, 4000, WIDTH).tolist()
    for recipe, blur, solarize in ((GLOBAL[0], 1, 0), (GLOBAL[1], 0.1, 0.2), (LOCAL, 0.5, 0)):
        table = np.array([parameters(numbers, recipe) for numbers in u])
        shares = [(table[:, 4] >= 0).mean(), table[:, 5].mean(), (table[:, 6] > 0).mean(), table[:, 7].mean()]
        assert np.abs(np.array(shares) - [0.8, 0.2, blur, solarize]).max() < 0.03  # four standard deviations
        assert np.bincount(table[table[:, 4] >= 0, 4].astype(int), minlength=24).min() > 80  # of 133


def test_parameters_are_drawn_as_ever():
    """A run goes on with the same views after an update: numbers of version 0.1.0."""
    u = uniform_rows(7, Purpose.CROPS, 12345, 1, WIDTH)[0].tolist()
    expected = [
        1.07156991401548,
        0.7547001562409899,
        0.8469624552155182,
        0.09978914101116464,
        15,
        0,
        1.3101115396803498,
        0,
    ]
    assert parameters(u, GLOBAL[0]) == pytest.approx(expected, rel=1e-14)
