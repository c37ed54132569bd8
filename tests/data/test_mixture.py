"""Quotas follow the weights within one sample, at every block, to any position."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from silc.data.mixture import WHOLE, Mixture, integer_weights

WEIGHTS = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12)
FIRST = st.one_of(st.integers(0, 50), st.integers(0, 10**15))


@given(weights=WEIGHTS)
@settings(max_examples=200, deadline=None)
def test_integer_weights_are_the_weights(weights):
    whole = integer_weights(weights)
    assert sum(whole) == WHOLE
    total = sum(map(Fraction, weights))
    assert all(abs(w - Fraction(x) * WHOLE / total) < 1 for w, x in zip(whole, weights, strict=True))


@given(weights=WEIGHTS, block=st.integers(1, 10**5), number=FIRST)
@settings(max_examples=300, deadline=None)
def test_quotas_are_within_one_sample_of_their_shares_and_leave_no_gap(weights, block, number):
    assume(len(weights) < 3 or min(integer_weights(weights)) * block >= WHOLE)
    mixture = Mixture(weights, block)
    before = None
    for current in range(number, number + 4):
        quotas = mixture.quotas(current)
        assert sum(quota.size for quota in quotas) == block
        assert all(quota.size >= 0 for quota in quotas)
        for quota, weight in zip(quotas, mixture.weights, strict=True):
            assert abs(quota.first - Fraction(weight * current * block, WHOLE)) < 1
        if before is not None:
            assert [quota.first for quota in quotas] == [first + size for first, size in before]
        before = quotas
    assert sum(mixture.taken(number * block)) == number * block


def test_every_source_counts_up_from_zero():
    mixture = Mixture([0.7, 0.25, 0.05], 32)
    met: list[list[int]] = [[], [], []]
    for number in range(500):
        for source, (first, size) in zip(met, mixture.quotas(number), strict=True):
            source += range(first, first + size)
    assert all(source == list(range(len(source))) for source in met)
    assert [len(source) for source in met] == [11200, 4000, 800]


def test_exact_where_floats_are_not():
    mixture = Mixture([1, 2, 3], 8192)
    number = 10**15 // 8192
    sixth = number * 8192 / Fraction(6)
    for quota, times in zip(mixture.quotas(number), (1, 2, 3), strict=True):
        assert abs(quota.first - times * sixth) < 1 + Fraction(number * 8192, WHOLE)  # a weight is exact to 2^-40
    assert sum(quota.first for quota in mixture.quotas(number)) == number * 8192


@pytest.mark.parametrize("weight", [0, -1, math.nan, math.inf])
def test_weights_that_are_none_are_refused(weight):
    with pytest.raises(ValueError, match=r"data\.sources\.1\.weight=.* positive number"):
        Mixture([1, weight], 100)


def test_a_source_too_rare_for_its_block_is_refused():
    with pytest.raises(ValueError, match=r"data\.sources\.1\.weight=0\.001 .*block of 100.*shuffle_block to at least"):
        Mixture([0.5, 0.001, 0.499], 100)
    least = 1001  # the integer weight may be a little below the share
    Mixture([0.5, 0.001, 0.499], least)
    with pytest.raises(ValueError, match="leave the source out"):
        Mixture([1, 1e-30], 100)


def test_two_sources_may_differ_by_any_factor():
    mixture = Mixture([1e-6, 1.0], 10)
    rare = [mixture.quotas(number)[0].size for number in range(300_000)]
    assert sum(rare) == 3
    assert set(rare) == {0, 1}
