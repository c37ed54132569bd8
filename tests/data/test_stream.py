"""The order of samples is a permutation in every pass and a pure function of seed and position."""

from __future__ import annotations

import math
import pickle
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from silc.data.randomness import Purpose, random_permutation, uniform_rows
from silc.data.stream import SampleStream, deal

COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(sum)


def places(stream: SampleStream, start: int, stop: int) -> list[tuple[int, int]]:
    return list(zip(*(numbers.tolist() for numbers in stream.locate(start, stop)), strict=True))


@given(counts=COUNTS, block=st.integers(1, 70), seed=st.integers(0, 2**40), number=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_every_pass_holds_every_sample_once(counts, block, seed, number):
    stream = SampleStream(counts, seed=seed, block=block)
    n = sum(counts)
    every = [(shard, sample) for shard, count in enumerate(counts) for sample in range(count)]
    assert stream.samples_per_pass == n
    assert sorted(places(stream, number * n, (number + 1) * n)) == every


@given(counts=COUNTS, block=st.integers(1, 70), cuts=st.lists(st.integers(1, 30), min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_a_position_names_the_same_sample_however_it_is_reached(counts, block, cuts):
    whole = places(SampleStream(counts, seed=3, block=block), 0, sum(cuts))
    at = 0
    for cut in cuts:
        fresh = SampleStream(counts, seed=3, block=block)  # nothing cached: as after a restart
        assert places(fresh, at, at + cut) == whole[at : at + cut]
        at += cut


def test_passes_and_seeds_differ():
    first = SampleStream([50, 50], seed=0, block=20)
    other = SampleStream([50, 50], seed=1, block=20)
    assert places(first, 0, 100) != places(first, 100, 200)
    assert places(first, 0, 100) != places(other, 0, 100)


def test_a_block_mixes_many_shards():
    stream = SampleStream([640] * 50, seed=0, block=320)
    assert len({shard for shard, _ in places(stream, 0, 320)}) >= 20  # 32 chunks drawn from 50 shards


def test_the_shuffle_is_uniform():
    # the sample at position 0 over many seeds: chi-square of 30 cells, 29 degrees of freedom, 99.9 % quantile 58.3
    seen = Counter(places(SampleStream([10, 20], seed=seed, block=64), 0, 1)[0] for seed in range(3000))
    assert sum((seen[(s, i)] - 100) ** 2 / 100 for s, n in enumerate((10, 20)) for i in range(n)) < 58.3


def test_the_order_is_frozen():
    # A checkpoint names a position, so that a change of order silently re-reads or loses samples on resume.
    stream = SampleStream([3, 4, 2], seed=7, block=5)
    assert places(stream, 0, 12) == FROZEN


FROZEN = [(1, 2), (1, 0), (0, 1), (0, 2), (1, 3), (2, 0), (1, 1), (2, 1), (0, 0), (0, 2), (1, 3), (0, 0)]


def test_a_pickled_stream_goes_on_alike():
    stream = SampleStream([30, 7], seed=5, block=8)
    before = places(stream, 0, 50)
    assert places(pickle.loads(pickle.dumps(stream)), 0, 50) == before


@given(counts=COUNTS)
@settings(max_examples=30, deadline=None)
def test_sample_at_counts_through_the_shards(counts):
    stream = SampleStream(counts, seed=0, block=4)
    every = [(shard, sample) for shard, count in enumerate(counts) for sample in range(count)]
    assert [stream.sample_at(i) for i in range(len(every))] == every


@given(
    captions=st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=80),
    first=st.integers(0, 50),
    batch=st.integers(1, 12),
)
@settings(max_examples=150, deadline=None)
def test_deal_spreads_equal_captions(captions, first, batch):
    order = deal(captions, first, batch)
    assert sorted(order.tolist()) == list(range(len(captions)))
    dealt = [captions[i] for i in order]
    numbers = [(first + i) // batch for i in range(len(dealt))]
    whole = sum(count == batch for count in Counter(numbers).values())
    if whole:
        met = Counter(zip(numbers, dealt, strict=True))
        for (_, caption), times in met.items():
            assert times <= math.ceil(captions.count(caption) / whole)


@given(first=st.integers(0, 1000), rows=st.integers(1, 20), width=st.integers(1, 30), skip=st.integers(0, 19))
@settings(max_examples=40, deadline=None)
def test_uniform_rows_belong_to_their_address(first, rows, width, skip):
    skip = min(skip, rows - 1)
    whole = uniform_rows(1, Purpose.CROPS, first, rows, width)
    assert whole.shape == (rows, width)
    np.testing.assert_array_equal(whole[skip:], uniform_rows(1, Purpose.CROPS, first + skip, rows - skip, width))


def test_uniform_rows_are_uniform_and_purposes_apart():
    rows = uniform_rows(0, Purpose.CROPS, 0, 2000, 50)
    assert 0 <= rows.min() < rows.max() < 1
    assert abs(rows.mean() - 0.5) < 0.005  # 5 standard errors
    assert abs(rows.var() - 1 / 12) < 0.002
    assert abs(np.corrcoef(rows[:-1].ravel(), rows[1:].ravel())[0, 1]) < 0.02
    assert not np.isin(rows[:20], uniform_rows(0, Purpose.SUBSTITUTE, 0, 20, 50)).any()
    assert not np.isin(rows[:20], uniform_rows(1, Purpose.CROPS, 0, 20, 50)).any()


def test_permutations_by_counter():
    first, second = (random_permutation(0, Purpose.BLOCK, counter, 100) for counter in (0, 1))
    assert sorted(first.tolist()) == list(range(100))
    assert not np.array_equal(first, second)
