"""A pass over one source holds every sample once, in an order that looks random and needs no table of samples."""

from __future__ import annotations

import pickle
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silc.data.order import ROUNDS, PassOrder, feistel
from silc.data.randomness import Purpose, random_permutation, random_words

COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(sum)
LIMITS = st.sampled_from([0, 2**16])  # every permutation of chunks by the network, or by a table


def places(order: PassOrder, number: int) -> list[tuple[int, int]]:
    return list(zip(*(x.tolist() for x in order.locate(np.arange(order.samples), number)), strict=True))


def plain(counts: list[int], chunk: int, seed: int, stream: int, number: int, by_table: bool) -> list[tuple[int, int]]:
    """The order of a pass, written as lists of samples."""
    full = [
        [(shard, at + i) for i in range(chunk)]
        for shard, count in enumerate(counts)
        for at in range(0, count - chunk + 1, chunk)
    ]
    tails = [
        [(shard, i) for i in range(count - count % chunk, count)] for shard, count in enumerate(counts) if count % chunk
    ]
    counter = stream * 2**64 + number
    if by_table:
        order = random_permutation(seed, Purpose.CHUNKS, counter, len(full)).tolist()
    else:
        keys = random_words(seed, Purpose.CHUNKS, counter * 2**64, ROUNDS)
        order = feistel(np.arange(len(full), dtype=np.uint64), len(full), keys).tolist() if full else []
    circle = []
    waiting = [tails[i] for i in random_permutation(seed, Purpose.TAILS, counter, len(tails))]
    met = 0
    for slot in range(len(full) + 1):
        while met < len(waiting) and met * len(full) // len(waiting) <= slot:
            circle += waiting[met]
            met += 1
        if slot < len(full):
            circle += full[order[slot]]
    entry = int(random_words(seed, Purpose.ROTATION, counter * 2**64, 1)[0]) * len(circle) // 2**64
    return circle[entry:] + circle[:entry]


@given(counts=COUNTS, chunk=st.integers(1, 12), seed=st.integers(0, 2**64 - 1), number=st.integers(0, 9), limit=LIMITS)
@settings(max_examples=150, deadline=None)
def test_the_order_is_the_one_written_plainly(counts, chunk, seed, number, limit):
    order = PassOrder(counts, chunk, seed, 3, table_limit=limit)
    found = places(order, number)
    assert found == plain(counts, chunk, seed, 3, number, by_table=sum(n // chunk for n in counts) <= limit)
    assert sorted(found) == [(shard, sample) for shard, count in enumerate(counts) for sample in range(count)]


@given(counts=COUNTS, chunk=st.integers(1, 12), limit=LIMITS, data=st.data())
@settings(max_examples=60, deadline=None)
def test_positions_are_found_in_any_order(counts, chunk, limit, data):
    order = PassOrder(counts, chunk, 5, 0, table_limit=limit)
    index = data.draw(st.lists(st.integers(0, order.samples - 1), max_size=30))
    whole = places(order, 2)
    shard, sample = order.locate(np.array(index, dtype=np.int64), 2)
    assert list(zip(shard.tolist(), sample.tolist(), strict=True)) == [whole[i] for i in index]


def test_passes_streams_and_seeds_differ():
    for limit in (0, 2**16):
        orders = {
            tuple(places(PassOrder([30, 20, 50], 4, seed, stream, table_limit=limit), number))
            for seed in range(2)
            for stream in range(2)
            for number in range(3)
        }
        assert len(orders) == 12


def test_tails_stand_evenly_among_the_chunks():
    order = PassOrder([101] * 40, 10, 0, 0)  # 400 full chunks, and 40 tails of one sample
    tails = np.array([i for i, (_, sample) in enumerate(places(order, 0)) if sample == 100])
    gaps = np.diff(tails, append=tails[0] + order.samples)
    assert sorted(set(gaps)) in ([101], [1, 101, 201])  # the circle may have been entered inside a chunk


@pytest.mark.parametrize("limit", [0, 2**16])
@pytest.mark.parametrize("counts", [[16, 16, 16, 16], [29, 13, 3, 19], [7, 3, 1, 2, 5, 6, 6, 2]])
def test_every_sample_is_everywhere_equally_often(counts, limit):
    """By the positions of every sample over seeds; with tails, without, and with nothing else."""
    seeds, n = 2560, sum(counts)
    met = Counter(
        (place, position * 8 // n)
        for seed in range(seeds)
        for position, place in enumerate(places(PassOrder(counts, 8, seed, 0, table_limit=limit), 0))
    )
    every = {place for place, _ in met}
    expected = seeds / 8
    worst = max(sum((met[place, cell] - expected) ** 2 / expected for cell in range(8)) for place in every)
    assert worst < 41  # 7 degrees of freedom: exceeded by one of 64 samples with probability 5e-5


def test_the_network_is_a_permutation_at_every_size():
    for size in range(1, 3001):
        keys = random_words(size, Purpose.CHUNKS, 0, ROUNDS)
        found = feistel(np.arange(size, dtype=np.uint64), size, keys)
        assert np.array_equal(np.sort(found), np.arange(size, dtype=np.uint64)), size


@pytest.mark.parametrize("size", [2**16 + 1, 70_001, 265**2, 257 * 258])
def test_the_network_is_a_permutation_at_large_sizes(size):
    found = permuted(size, seed=1)
    assert len(np.unique(found)) == size
    assert found.max() == size - 1


def permuted(size: int, seed: int) -> np.ndarray:
    return feistel(np.arange(size, dtype=np.uint64), size, random_words(seed, Purpose.CHUNKS, 0, ROUNDS)).astype(int)


def chi_square(cells: np.ndarray) -> float:
    return float(((cells - cells.mean()) ** 2 / cells.mean()).sum())


@pytest.mark.parametrize("size", [70_000, 2**17, 1_000_003])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_network_leaves_no_pattern(size, seed):
    """Chi-squares lie within 5 standard deviations of a random permutation's: degrees +- 5 sqrt(2 degrees)."""
    number, found = np.arange(size), permuted(size, seed)
    assert abs(np.corrcoef(number, found)[0, 1]) < 5 / np.sqrt(size)
    grid = np.histogram2d(number, found, bins=16, range=[[0, size]] * 2)[0]
    assert abs(chi_square(grid) - 225) < 5 * np.sqrt(2 * 225)  # rows and columns have fixed sums
    steps = np.bincount(np.diff(found) % size * 64 // size, minlength=64)  # from one number to the next
    assert abs(chi_square(steps) - 63) < 5 * np.sqrt(2 * 63)
    ends = np.bincount(found % 8 * 8 + number % 8, minlength=64)  # low bits
    assert chi_square(ends) < 63 + 5 * np.sqrt(2 * 63)
    assert (np.diff(found) == 1).sum() < 10  # neighbours that stay neighbours: 1 expected


def test_one_bit_of_a_number_or_of_a_key_changes_everything():
    size, rng = 2**20, np.random.default_rng(0)
    values = rng.integers(0, size, 4000).astype(np.uint64)
    keys = random_words(0, Purpose.CHUNKS, 0, ROUNDS)
    before = feistel(values, size, keys)
    changed = [feistel(values ^ np.uint64(1 << bit), size, keys) for bit in range(20)]
    for bit in range(0, 64, 7):
        for number in range(ROUNDS - 2):  # the last key of a half moves that half alone, all by one amount
            other = keys.copy()
            other[number] ^= np.uint64(1 << bit)
            changed.append(feistel(values, size, other))
    for after in changed:
        flips = (((before ^ after)[:, None] >> np.arange(20).astype(np.uint64)) & np.uint64(1)).mean(axis=0)
        assert np.abs(flips - 0.5).max() < 0.05  # 6 standard errors
        assert (before == after).mean() < 0.01


def test_numbers_over_seeds_are_uniform():
    size = 70_001
    found = np.array([feistel(np.array([12_345], dtype=np.uint64), size, key)[0] for key in keys_of(2000)])
    assert abs(chi_square(np.bincount(found.astype(int) * 40 // size, minlength=40)) - 39) < 5 * np.sqrt(2 * 39)


def keys_of(seeds: int) -> list[np.ndarray]:
    return [random_words(seed, Purpose.CHUNKS, 0, ROUNDS) for seed in range(seeds)]


def test_memory_is_a_few_numbers_a_shard():
    counts = np.random.default_rng(0).integers(1, 20_000, 140_000)  # 1.4 billion samples
    tracemalloc.start()
    try:
        order = PassOrder(counts, 128, 0, 0)
        order.locate(np.arange(order.samples - 20_000, order.samples), 0)
        order.locate(np.arange(20_000), 1)
        order.locate(np.arange(20_000), 2)  # a third pass takes the place of the first
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 10 * 2**20


def test_a_pickled_order_has_no_tables_and_goes_on_alike():
    order = PassOrder(np.full(10_000, 1000), 7, 4, 2)
    index = np.arange(5000, 6000)
    before = order.locate(index, 3)
    data = pickle.dumps(order)
    assert len(data) < 8 * 10_000 + 1000
    again = pickle.loads(data).locate(index, 3)
    assert all(np.array_equal(a, b) for a, b in zip(before, again, strict=True))


@given(counts=COUNTS)
@settings(max_examples=30, deadline=None)
def test_sample_at_counts_through_the_shards(counts):
    order = PassOrder(counts, 4, 0, 0)
    every = [(shard, sample) for shard, count in enumerate(counts) for sample in range(count)]
    assert [order.sample_at(i) for i in range(len(every))] == every
