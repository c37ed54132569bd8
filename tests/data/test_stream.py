"""The order of samples is a permutation in every pass and a pure function of seed, position and global batch."""

from __future__ import annotations

import itertools
import math
import pickle
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silc.data.randomness import Purpose, random_permutation, random_words, uniform_rows
from silc.data.stream import VERSION, SampleStream, deal

COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(sum)
SHAPES = st.tuples(st.integers(1, 70), st.integers(1, 24), st.integers(1, 12))  # block, batch, chunks a block
Place = tuple[int, int]


def places(stream: SampleStream, start: int, stop: int) -> list[Place]:
    return list(zip(*(numbers.tolist() for numbers in stream.locate(start, stop)), strict=True))


def make(counts, shape=(16, 8, 4), *, seed: int = 3, **keywords) -> SampleStream:
    block, batch, chunks = shape
    return SampleStream([counts], seed=seed, block=block, batch=batch, chunks_per_block=chunks, **keywords)


def every(counts) -> list[Place]:
    return [(shard, sample) for shard, count in enumerate(counts) for sample in range(count)]


def turned(shard: np.ndarray, sample: np.ndarray, first: int) -> np.ndarray:
    """Some rearrangement."""
    return np.argsort((shard * 31 + sample * 17 + first) % 13, kind="stable")


@given(counts=COUNTS, shape=SHAPES, seed=st.integers(0, 2**40), number=st.integers(0, 5), arrange=st.booleans())
@settings(max_examples=100, deadline=None)
def test_every_pass_holds_every_sample_once(counts, shape, seed, number, arrange):
    stream = make(counts, shape, seed=seed, arrange=turned if arrange else None)
    n = sum(counts)
    assert stream.samples_per_pass == n
    assert sorted(places(stream, number * n, (number + 1) * n)) == every(counts)


@given(counts=COUNTS, shape=SHAPES, start=st.integers(0, 10**15), cuts=st.lists(st.integers(1, 30), max_size=12))
@settings(max_examples=60, deadline=None)
def test_a_position_names_the_same_sample_however_it_is_reached(counts, shape, start, cuts):
    whole = places(make(counts, shape), start, start + sum(cuts) + 1)
    at = 0
    for cut in cuts:
        fresh = make(counts, shape)  # nothing cached: as after a restart
        assert places(fresh, start + at, start + at + cut) == whole[at : at + cut]
        at += cut


def test_passes_and_seeds_differ():
    first, other = make([50, 50], seed=0), make([50, 50], seed=1)
    assert places(first, 0, 100) != places(first, 100, 200)
    assert places(first, 0, 100) != places(other, 0, 100)


@pytest.mark.parametrize("block", [8, 32])
@pytest.mark.parametrize("limit", [0, 2**16])
@pytest.mark.parametrize("counts", [[16, 16, 32], [29, 13, 3, 19]])
def test_a_sample_is_in_every_batch_equally_often(counts, limit, block):
    """Over seeds; with tails and without, chunks by the network and by a table, blocks of one batch and of several."""
    seeds = 1000
    met: Counter = Counter()
    for seed in range(seeds):
        found = places(make(counts, (block, 8, 4), seed=seed, table_limit=limit), 0, 64)
        met.update((place, position // 8) for position, place in enumerate(found))
    expected = seeds / 8
    worst = max(sum((met[place, batch] - expected) ** 2 / expected for batch in range(8)) for place in every(counts))
    assert worst < 41  # 7 degrees of freedom: exceeded by one of 64 samples with probability 5e-5


def ungrouped(counts: list[int], stream: SampleStream, seed: int, blocks: int, arrange) -> list[Counter]:
    """The samples of each batch as the steps before the last leave them, written with lists."""
    order = stream._orders[0]
    n, batch, block, chunk = sum(counts), stream._batch, stream.block, stream._chunk
    runs = chunk // stream._run
    batches = []
    for number in range(blocks):
        mixed: list[Place] = []
        sides = [
            [p for p in range(number * block, (number + 1) * block) if p // n == side]
            for side in range(number * block // n, ((number + 1) * block - 1) // n + 1)
        ]
        words = iter(random_words(seed, Purpose.BLOCK, number * 2**64, block).tolist())
        for side in sides:
            keyed, last = [], None
            for position in side:
                shard, sample = (int(x[0]) for x in order.locate(np.array([position % n]), position // n))
                if (shard, sample // chunk) != last:
                    last, word = (shard, sample // chunk), next(words)
                run = sample % chunk // stream._run
                keyed.append(((word + run * (2**64 // runs)) % 2**64, shard, sample))
            if block > batch:
                keyed.sort(key=lambda entry: entry[0])
            found = [(shard, sample) for _, shard, sample in keyed]
            if arrange and block > batch:
                shards, samples = (np.array(column) for column in zip(*found, strict=True))
                found = [found[i] for i in arrange(shards, samples, side[0])]
            mixed += found
        batches += [Counter(mixed[at : at + batch]) for at in range(0, block, batch)]
    return batches


@given(counts=COUNTS, shape=SHAPES, arrange=st.booleans())
@settings(max_examples=60, deadline=None)
def test_grouping_leaves_every_sample_in_its_batch(counts, shape, arrange):
    rearrange = turned if arrange else None
    stream = make(counts, shape, arrange=rearrange)
    batch = shape[1]
    expected = ungrouped(counts, stream, 3, 3, rearrange)
    for number, samples in enumerate(expected):
        assert Counter(places(stream, number * batch, (number + 1) * batch)) == samples


@given(
    counts=st.lists(st.integers(100, 400), min_size=4, max_size=8),
    times=st.integers(1, 4),
    ranks=st.sampled_from([2, 4, 8]),
)
@settings(max_examples=40, deadline=None)
def test_a_share_is_cut_at_the_borders_of_runs(counts, times, ranks):
    """Away from the end of a pass: all shares but the last few are whole runs, or parts of one."""
    stream = make(counts, (64 * times, 64, 8))  # runs of 8
    share = 64 // ranks
    for number in range(sum(counts) // 64):
        found = places(stream, number * 64, (number + 1) * 64)
        sizes = Counter((shard, sample // 8) for shard, sample in found)
        whole = 8 * sum(size == 8 for size in sizes.values())
        assert whole >= 64 - 32  # a border on each side, and tails
        for at in range(0, whole - share + 1, share):
            met = Counter((shard, sample // 8) for shard, sample in found[at : at + share])
            assert len(met) == max(1, share // 8)


def test_a_batch_takes_one_run_of_every_chunk():
    stream = SampleStream([[6400] * 200], seed=0, block=4096, batch=1024)  # runs of 8 in chunks of 32
    for number in range(8):
        chunks = Counter((shard, sample // 32) for shard, sample in places(stream, number * 1024, (number + 1) * 1024))
        assert 128 <= len(chunks) <= 130
        assert sum(size == 8 for size in chunks.values()) >= 124  # runs that a border cuts are broken


def test_no_rank_is_bound_to_a_part_of_the_shards():
    # Were batches sorted by shard, rank 0 would read the first source alone, and decode its large images for ever.
    for weights, sources in ((None, [[500] * 80]), ([1, 1], [[500] * 40] * 2)):
        stream = SampleStream(sources, weights=weights, seed=0, block=256, batch=256)
        first = [np.mean(stream.locate(at, at + 64)[0] < 40) for at in range(0, 256 * 120, 256)]
        assert abs(np.mean(first) - 0.5) < 0.05


def test_the_order_is_frozen():
    # A checkpoint names a position, so that a change of order silently re-reads or loses samples on resume.
    def names(stream: SampleStream, stop: int) -> str:
        return " ".join(f"{shard}.{sample}" for shard, sample in places(stream, 0, stop))

    small = SampleStream([[3, 4, 2]], seed=7, block=5, batch=3)
    assert names(small, 12) == "1.0 1.1 2.1 0.1 2.0 0.0 1.3 0.2 1.2 2.0 1.0 0.1"
    chunks = make([9, 5, 6], (24, 12, 2), seed=7, table_limit=0)
    assert names(chunks, 24) == (
        "0.6 0.7 0.8 2.2 2.3 2.4 2.5 1.0 1.1 1.2 1.3 1.4 0.0 0.1 0.2 0.3 0.4 0.5 2.0 2.1 1.0 1.1 0.7 0.8"
    )
    mixture = SampleStream([[3, 4], [5]], weights=[0.25, 0.75], seed=7, block=8, batch=4, chunks_per_block=2)
    assert names(mixture, 16) == "2.2 2.2 1.1 2.0 2.1 2.4 1.2 2.3 2.2 2.4 0.0 2.3 2.0 2.1 2.1 1.3"
    assert VERSION == 2


def test_another_process_finds_the_same():
    code = (
        "from silc.data.stream import SampleStream\n"
        "stream = SampleStream([[900] * 90, [77]], weights=[3, 1], seed=5, block=512, batch=128)\n"
        "print([x.tolist() for x in stream.locate(10**12, 10**12 + 300)])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    stream = SampleStream([[900] * 90, [77]], weights=[3, 1], seed=5, block=512, batch=128)
    assert result.stdout.strip() == str([x.tolist() for x in stream.locate(10**12, 10**12 + 300)])


def test_a_pickled_stream_goes_on_alike():
    stream = SampleStream([[300] * 1000, [7]], weights=[2, 1], seed=5, block=8192, batch=64)
    before = places(stream, 0, 500)
    data = pickle.dumps(stream)
    assert len(data) < 8 * 1001 + 2000  # the counts, and no tables
    assert places(pickle.loads(data), 0, 500) == before


def test_what_a_checkpoint_says_of_the_order():
    stream = SampleStream([[100] * 1000], seed=5, block=8192, batch=1000)
    assert stream.describe() == {"version": 2, "block": 9000, "chunk": 70, "batch": 1000}
    assert SampleStream([[9]], seed=5, block=1, batch=4).describe() == {
        "version": 2,
        "block": 4,
        "chunk": 1,
        "batch": 4,
    }


@given(
    sources=st.lists(COUNTS, min_size=2, max_size=4),
    weights=st.lists(st.floats(0.3, 1), min_size=4, max_size=4),
    shape=st.tuples(st.integers(16, 70), st.integers(1, 24), st.integers(1, 12)),
)
@settings(max_examples=60, deadline=None)
def test_in_a_mixture_every_sample_comes_once_in_each_pass_of_its_source(sources, weights, shape):
    weights = weights[: len(sources)]
    block, batch, chunks = shape
    stream = SampleStream(sources, weights=weights, seed=1, block=block, batch=batch, chunks_per_block=chunks)
    block = stream.describe()["block"]
    ends = np.cumsum([len(source) for source in sources])
    met: list[Counter] = [Counter() for _ in sources]
    for number in range(12):
        for shard, sample in places(stream, number * block, (number + 1) * block):
            source = int(np.searchsorted(ends, shard, side="right"))
            met[source][shard - int(ends[source] - len(sources[source])), sample] += 1
        for source, counts, weight in zip(met, sources, weights, strict=True):
            taken = source.total()
            assert abs(taken - weight / sum(weights) * (number + 1) * block) < 1 + 1e-6
            assert {source[place] for place in every(counts)} <= {taken // sum(counts), -(-taken // sum(counts))}


def test_without_weights_all_shards_are_one_source():
    apart = SampleStream([[9, 5], [30]], seed=1, block=16, batch=4)
    assert places(apart, 0, 100) == places(SampleStream([[9, 5, 30]], seed=1, block=16, batch=4), 0, 100)
    assert sorted(places(apart, 44, 88)) == every([9, 5, 30])


def test_a_source_without_samples_is_refused():
    with pytest.raises(ValueError, match="source 1 has no samples in its 2 shards"):
        SampleStream([[3], [0, 0]], weights=[1, 1], seed=0, block=4, batch=4)


def test_a_substitute_is_a_sample_of_the_same_source():
    sources = [[3, 0, 2], [1, 4]]
    stream = SampleStream(sources, weights=[1, 1], seed=0, block=8, batch=8)
    for shards, first, counts in (((0, 1, 2), 0, sources[0]), ((3, 4), 3, sources[1])):
        us = np.linspace(0, 1, sum(counts) * 20, endpoint=False) + 1e-9
        for shard in shards:
            met = Counter(stream.substitute(shard, u) for u in us.tolist())
            assert met == {(first + shard, sample): 20 for shard, sample in every(counts)}
    assert stream.substitute(4, math.nextafter(1, 0)) == (4, 3)


def test_an_arrangement_that_could_change_nothing_is_not_asked_for():
    def refuse(*_: object) -> np.ndarray:
        raise AssertionError

    assert places(make([40, 24], (8, 8, 4), arrange=refuse), 0, 64) == places(make([40, 24], (8, 8, 4)), 0, 64)


@given(
    captions=st.lists(st.sampled_from(range(8)), min_size=1, max_size=80),
    others=st.integers(0, 80),
    first=st.integers(0, 50),
    batch=st.integers(1, 12),
    seed=st.integers(0, 99),
)
@settings(max_examples=200, deadline=None)
def test_deal_spreads_equal_captions(captions, others, first, batch, seed):
    codes = np.random.default_rng(seed).permutation([*captions, *range(100, 100 + others)]).astype(
        np.uint64
    ) << np.uint64(60)
    codes += np.arange(len(codes), dtype=np.uint64) * (codes == 0)  # the others, once each
    order = deal(codes, first, batch)
    assert sorted(order.tolist()) == list(range(len(codes)))
    dealt = codes[order].tolist()
    numbers = [(first + i) // batch for i in range(len(dealt))]
    whole = sum(count == batch for count in Counter(numbers).values())
    if whole:
        times = Counter(dealt)
        for (_, code), met in Counter(zip(numbers, dealt, strict=True)).items():
            assert met <= math.ceil(times[code] / whole)


def test_runs_stay_together_when_equal_captions_are_dealt():
    captions = np.random.default_rng(0).integers(0, 4000, (20, 400))  # some twice in a block, most once

    def arrange(shard: np.ndarray, sample: np.ndarray, first: int) -> np.ndarray:
        return deal(captions[shard, sample], first, 64)

    stream = make([400] * 20, (256, 64, 8), arrange=arrange)  # runs of 8
    moved = 0
    for number in range(80):
        found = places(stream, number * 64, (number + 1) * 64)
        runs = [(shard, sample // 8) for shard, sample in found]
        assert 1 + sum(a != b for a, b in itertools.pairwise(runs)) == len(set(runs))
        assert len({captions[place] for place in found}) == 64
        moved += len(set(runs)) > 10
    assert moved > 10


def test_deal_leaves_the_others_in_order():
    codes = np.arange(64)
    assert deal(codes, 0, 8).tolist() == codes.tolist()
    codes[[3, 4, 5]] = 99
    order = deal(codes, 0, 8)
    assert order[[0, 8, 16]].tolist() == [3, 4, 5]
    alone = [i for i in order.tolist() if i not in (3, 4, 5)]
    assert alone == sorted(alone)


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
