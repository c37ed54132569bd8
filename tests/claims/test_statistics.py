"""Means, t intervals, gains, slopes and noise against NumPy and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from silc.claims import statistics
from silc.claims.metrics import Measurement
from silc.claims.statistics import Mean

CLAIM = ("retrieval", "image_to_text_r5")


def made(values: dict[tuple[str, int, int], float], error: float | None = None) -> list[Measurement]:
    """Measurements of CLAIM by (variant, pairs, seed), among others that must not enter."""
    wanted = [
        Measurement(*key, "student", "main", *CLAIM, value, 0.1, error, 1, 1, 1.0) for key, value in values.items()
    ]
    others = [
        Measurement(m.variant, m.pairs, m.seed, model, "main", task, CLAIM[1], 9.0, 0.1, 5.0, 1, 1, 1.0)
        for m in wanted
        for model, task in (("student", "fewshot"), ("teacher", "fewshot"))
    ]
    return [*wanted, *others]


def random_measurements(seeds: int, sizes=(100, 200, 400)) -> tuple[np.ndarray, list[Measurement]]:
    """[variant (clip, silc), size, seed] and the measurements."""
    values = np.random.default_rng(seeds).random((2, len(sizes), seeds))
    variants = ("clip", "silc")
    keyed = {(variants[v], sizes[p], s): float(values[v, p, s]) for v, p, s in np.ndindex(values.shape)}
    return values, made(keyed)


def test_t_quantiles_are_students():
    for freedom in range(1, 31):
        assert statistics.t95(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=5e-5)
    assert statistics.t95(1000) >= stats.t.ppf(0.975, 1000)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=12))
def test_the_interval_of_a_mean_is_scipys(values):
    found = statistics.mean(values)
    error = stats.sem(values)
    assert found.value == pytest.approx(np.mean(values), abs=1e-12)
    assert found.error == pytest.approx(error, abs=1e-12)
    if error > 1e-9:
        low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=error)
        assert found.half == pytest.approx((high - low) / 2, rel=1e-4)


def test_one_seed_has_no_interval():
    assert statistics.mean([0.5]) == Mean(0.5, None, 1)
    assert statistics.mean([0.5]).half is None


@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_a_gain_is_the_paired_difference_with_its_standard_error(seeds):
    values, found = random_measurements(seeds)
    difference = values[1, 1] - values[0, 1]
    gain = statistics.gain(found, "clip", CLAIM, 200)
    assert gain.value == pytest.approx(difference.mean())
    assert gain.error == pytest.approx(stats.sem(difference))
    assert statistics.gain(found, "clip", CLAIM, 200, ours="clip").value == 0
    assert statistics.gain(found, "clip_views", CLAIM, 200) is None


def test_a_seed_that_one_variant_lacks_does_not_enter():
    found = made({("clip", 100, 0): 0.1, ("silc", 100, 0): 0.3, ("silc", 100, 1): 0.9})
    assert statistics.gain(found, "clip", CLAIM, 100) == Mean(pytest.approx(0.2), None, 1)


@pytest.mark.parametrize("seeds", [1, 4])
def test_slopes_are_those_of_least_squares_over_doublings(seeds):
    values, found = random_measurements(seeds, sizes=(100, 200, 800))
    expected = np.polyfit(np.log2([100, 200, 800]), values.reshape(2, 3, seeds).transpose(1, 0, 2).reshape(3, -1), 1)
    expected = expected[0].reshape(2, seeds)
    assert list(statistics.slope(found, "silc", CLAIM).values()) == pytest.approx(list(expected[1]))
    steeper = statistics.steeper(found, "clip", CLAIM)
    assert steeper.value == pytest.approx((expected[1] - expected[0]).mean())
    if seeds > 1:
        assert steeper.half == pytest.approx(stats.sem(expected[1] - expected[0]) * stats.t.ppf(0.975, seeds - 1), 1e-4)
    assert statistics.steeper(made({("silc", 100, 0): 1.0}), "clip", CLAIM) is None


def test_a_slope_is_compared_over_the_same_sizes_alone():
    _, found = random_measurements(2)
    some = [one for one in found if (one.variant, one.pairs, one.seed) != ("clip", 400, 1)]
    assert statistics.steeper(some, "clip", CLAIM).seeds == 1
    assert statistics.steeper(found, "clip", CLAIM).seeds == 2


def test_seeds_without_every_size_of_the_page_have_no_slope():
    """Curves that flatten, the same for all seeds; two of five seeds have not come to the largest size."""
    curves = {"clip": (0.1, 0.2, 0.25), "silc": (0.15, 0.23, 0.27)}
    keyed = {
        (variant, pairs, seed): value
        for variant, values in curves.items()
        for pairs, value in zip((8000, 16000, 32000), values, strict=True)
        for seed in range(5)
        if pairs < 32000 or seed < 3
    }
    found = made(keyed)
    assert list(statistics.slope(found, "clip", CLAIM)) == [0, 1, 2]
    steeper = statistics.steeper(found, "clip", CLAIM)
    assert (steeper.value, steeper.error, steeper.seeds) == (pytest.approx(-0.015), pytest.approx(0, abs=1e-12), 3)
    first_of_the_largest = [one for one in found if one.pairs < 32000 or (one.variant, one.seed) == ("silc", 0)]
    assert statistics.steeper(first_of_the_largest, "clip", CLAIM) is None


def test_noise_is_pooled_between_seeds_beside_the_bootstrap_error():
    rng = np.random.default_rng(1)
    values = rng.random((2, 5))
    keyed = {(v, 100, s): float(values[n, s]) for n, v in enumerate(("clip", "silc")) for s in range(5)}
    found = statistics.noise(made(keyed, error=0.1), CLAIM, 100)
    pooled = np.sqrt(values.var(axis=1, ddof=1).mean())
    assert found.seeds == pytest.approx(pooled)
    assert found.images == pytest.approx(0.1)
    assert found.share == pytest.approx(min(1, (0.1 / pooled) ** 2))
    assert found.difference == pytest.approx((values[1] - values[0]).std(ddof=1))


def test_noise_of_one_seed_or_without_bootstrap_is_not_known():
    found = statistics.noise(made({("clip", 100, 0): 0.1, ("silc", 100, 0): 0.2}), CLAIM, 100)
    assert found == (None, None, None)
    assert found.share is None


@pytest.mark.parametrize(
    ("difference", "word"),
    [
        (None, "not measured"),
        (Mean(0.5, None, 1), "1 seed"),
        (Mean(0.5, 0.0, 2), "2 seeds"),
        (Mean(0.42, 0.1, 3), "undecided"),
        (Mean(0.44, 0.1, 3), "better"),
        (Mean(-0.44, 0.1, 3), "worse"),
        (Mean(0.21, 0.1, 100), "better"),
        (Mean(math.nan, 0.1, 3), "undecided"),
        (Mean(-0.5, math.nan, 3), "undecided"),
    ],
)
def test_verdicts(difference, word):
    assert statistics.verdict(difference) == word


def test_how_often_chance_alone_lies_beyond_two_standard_errors():
    for freedom in range(1, 40):
        assert statistics.by_chance(freedom) == pytest.approx(2 * stats.t.sf(2, freedom), rel=1e-9)


@pytest.mark.parametrize(("value", "side"), [(0.19, 0), (0.21, 1), (-0.21, -1), (-0.19, 0)])
def test_beyond_is_two_standard_errors(value, side):
    assert statistics.beyond(Mean(value, 0.1, 3)) == side
    assert statistics.beyond(Mean(math.nan, 0.1, 3)) == statistics.beyond(Mean(-1.0, math.nan, 3)) == 0
