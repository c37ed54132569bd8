"""The order of samples, version 2: an endless stream whose every position names one sample.

It is a pure function of (seed, position, global batch). The order does not depend on ranks or workers: each computes
which samples its positions name and reads only those. The state of the stream is one integer, the position, and a run
can continue exactly from any position.

1. Each source has an order of its own, pass after pass, in chunks of neighbouring samples (silc.data.order).
2. The stream is cut into blocks of whole global batches. A block takes the next samples of each source, as many as its
   share asks for (silc.data.mixture).
3. Chunks are cut into runs, and each chunk's runs are spread evenly over the batches of the block from a random place
   on, so that a batch has one run of each of its CHUNKS_PER_BLOCK chunks. In a block of one batch a run is a chunk.
4. Optionally the samples of a block are rearranged (`deal`).
5. Within a batch the samples of a run stand together, whole runs before broken ones, runs otherwise in random order. A
   rank takes a contiguous share: a few ranges of shards, of which every byte is used.

Neighbours of a shard meet on one rank. Losses, the teacher's statistics and gradients are means over the global batch,
whichever rank and micro-batch holds a sample (silc/train/step.py), so that only what a batch holds can matter, and that
is more varied than in version 1: 16,384 samples of 1.4 billion come from 130 shards in place of 67, while a rank of 256
reads 1.01 ranges in place of 64 (benchmarks/data/locality.py).

Runs are not sorted by shard: where samples of some shards take longer to decode, the same ranks would always have them.

A pass of a single source holds each sample once: where a pass ends inside a block, the two sides are ordered apart, and
none is dropped. In a mixture each source has passes of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from silc.data.mixture import Mixture, Quota
from silc.data.order import TABLE_LIMIT, PassOrder
from silc.data.randomness import Purpose, random_words

VERSION = 2  # 1 permuted the samples of a block one by one, over all its batches

# More chunks make a batch more varied where neighbours are alike; fewer make longer ranges. Measured for 32, 64, 128
# and 256 (benchmarks/results/locality.csv), in ranges of a rank: 1.0 each for 16,384 samples on 256 ranks; 1.0, 1.0,
# 2.0 and 4.0 for 4,096 on 64; 4, 8, 16 and 32 for 16,384 on 8; in shards of a batch of 16,384: 34, 66, 130 and 258. 128
# is the most with two ranges at the second, of 32 samples or about a megabyte each.
CHUNKS_PER_BLOCK = 128

Arrange = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
"""(shard [n], sample [n], first position) -> permutation [n]: moves samples between the batches of a block."""

Places = tuple[np.ndarray, np.ndarray]
"""shard [n] and sample in it [n], int64."""


class SampleStream:
    """Maps positions to samples.

    Args:
        sources: for each source the samples of its shards. Shards are numbered through all sources, in order.
        weights: shares of the sources in every block. None: all shards are one source, and each sample comes once in
            `samples_per_pass` positions.
        seed: of the order.
        block: samples that are mixed with each other; rounded up to whole global batches.
        batch: samples of a global batch.
        arrange: rearranges the samples of each block, or of each side of a pass's end in it; must be a pure function.
            Not called where a block is one batch, since it could change nothing.
        chunks_per_block, table_limit: other values than the defaults are for tests and measurements.

    Attributes:
        samples_per_pass: samples of all sources.
        block: samples that are mixed with each other, whole global batches.

    Raises:
        ValueError: a source without samples; weights that no block can follow, see :class:`Mixture`.
    """

    def __init__(
        self,
        sources: Sequence[Sequence[int] | np.ndarray],
        *,
        weights: Sequence[float] | None = None,
        seed: int,
        block: int,
        batch: int,
        arrange: Arrange | None = None,
        chunks_per_block: int = CHUNKS_PER_BLOCK,
        table_limit: int = TABLE_LIMIT,
    ) -> None:
        assert block > 0
        assert batch > 0
        counts = [np.asarray(source, dtype=np.int64) for source in sources]
        if weights is None:
            counts = [np.concatenate(counts)]
        for number, source in enumerate(counts):
            if not source.sum():
                raise ValueError(f"source {number} has no samples in its {len(source)} shards; add shards or remove it")
        self._seed, self._batch, self._arrange = seed, batch, arrange
        self.block = -(-block // batch) * batch
        self._run = max(1, batch // chunks_per_block)
        self._chunk = max(1, self.block // chunks_per_block // self._run) * self._run
        self._orders = [
            PassOrder(source, self._chunk, seed, number, table_limit=table_limit)
            for number, source in enumerate(counts)
        ]
        self._first_shards = np.cumsum([0] + [len(source) for source in counts[:-1]])
        self._mixture = Mixture([1.0] if weights is None else weights, self.block)
        assert len(self._mixture.weights) == len(counts)
        self.samples_per_pass = sum(order.samples for order in self._orders)
        self._start_cache()

    def _start_cache(self) -> None:
        # Blocks are used in order; two are kept since a batch may cross their border.
        self._cached_block = lru_cache(maxsize=2)(self._make_block)

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_cached_block"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._start_cache()

    def describe(self) -> dict[str, int]:
        """What the order depends on besides seed and shards; a checkpoint's position is of this order alone."""
        return {"version": VERSION, "block": self.block, "chunk": self._chunk, "batch": self._batch}

    def locate(self, start: int, stop: int) -> Places:
        """The samples at positions [start, stop): their shards and their indices there, int64 [stop - start] each."""
        shards, samples = [], []
        for number in range(start // self.block, -(-stop // self.block)):
            first = number * self.block
            inside = slice(max(start - first, 0), min(stop - first, self.block))
            shard, sample = self._cached_block(number)
            shards.append(shard[inside])
            samples.append(sample[inside])
        return np.concatenate(shards), np.concatenate(samples)

    def substitute(self, shard: int, u: float) -> tuple[int, int]:
        """A sample (shard, sample) of the same source as a shard, uniform over it for u uniform in [0, 1)."""
        source = int(np.searchsorted(self._first_shards, shard, side="right")) - 1
        order, first_shard = self._orders[source], int(self._first_shards[source])
        shard, sample = order.sample_at(min(int(u * order.samples), order.samples - 1))
        return first_shard + shard, sample

    def _make_block(self, number: int) -> Places:
        shard, sample, side = self._taken(number)
        batch = np.arange(self.block) // self._batch
        several = self.block > self._batch
        if several or len(self._orders) > 1:  # a batch of one source is in random order as it is
            order = self._spread(number, shard, sample, side)
            if self._arrange is not None and several:
                dealt = self._arranged(number, shard[order], sample[order], side)
                order = order[dealt[np.lexsort((dealt, side, batch))]]
            shard, sample = shard[order], sample[order]
        order = self._whole_runs_first(shard, sample, side, batch)
        return shard[order], sample[order]

    def _taken(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A block's shards and samples in their sources' order, and the numbers of its sides (of a single source)."""
        parts, sizes = [], []
        quotas = self._mixture.quotas(number)
        for order, first_shard, quota in zip(self._orders, self._first_shards, quotas, strict=True):
            for shard, sample in _passes(order, quota):
                parts.append((shard + first_shard, sample))
                sizes.append(len(shard))
        shard, sample = (np.concatenate(column) for column in zip(*parts, strict=True))
        side = np.repeat(np.arange(len(sizes)), sizes) if len(quotas) == 1 else np.zeros_like(shard)
        return shard, sample, side

    def _spread(self, number: int, shard: np.ndarray, sample: np.ndarray, side: np.ndarray) -> np.ndarray:
        """A permutation, int64 [block], that keeps runs and sides together and spreads the runs of each chunk evenly.

        The keys of a chunk's runs are equally far from each other on a circle, the first at a random place.
        """
        begins = np.flatnonzero(np.diff(_numbered(side, shard, sample // self._run), prepend=-1))
        sizes = np.diff(begins, append=len(side))
        side, shard, sample = side[begins], shard[begins], sample[begins]
        chunk = _numbered(side, shard, sample // self._chunk)
        words = random_words(self._seed, Purpose.BLOCK, number << 64, int(chunk[-1]) + 1)
        step = np.uint64(2**64 // (self._chunk // self._run) % 2**64)
        keys = words[chunk] + (sample % self._chunk // self._run).astype(np.uint64) * step
        order = np.lexsort((keys, side))
        sizes, begins = sizes[order], begins[order]
        return np.repeat(begins - np.cumsum(sizes) + sizes, sizes) + np.arange(self.block)

    def _arranged(self, number: int, shard: np.ndarray, sample: np.ndarray, side: np.ndarray) -> np.ndarray:
        assert self._arrange is not None
        ends = np.flatnonzero(np.diff(side, append=-1)) + 1
        dealt, begin = [], 0
        for end in ends.tolist():
            inside = slice(begin, end)
            dealt.append(begin + self._arrange(shard[inside], sample[inside], number * self.block + begin))
            begin = end
        return np.concatenate(dealt)

    def _whole_runs_first(
        self, shard: np.ndarray, sample: np.ndarray, side: np.ndarray, batch: np.ndarray
    ) -> np.ndarray:
        """A permutation, int64 [block], within each batch and side.

        The borders of whole runs then lie at multiples of a run, as those of the shares do: a broken run (the tail of a
        shard, or a chunk that began in another batch) would shift all that come after it.
        """
        run = _numbered(batch, side, shard, sample // self._run)
        broken = (np.bincount(run) < self._run)[run]
        return np.lexsort((broken, side, batch))


def _passes(order: PassOrder, quota: Quota) -> list[Places]:
    """The samples that a source contributes to a block, one part for each of its passes."""
    parts = []
    at, stop = quota.first, quota.first + quota.size
    while at < stop:
        number, index = divmod(at, order.samples)
        size = min(stop - at, order.samples - index)
        parts.append(order.locate(np.arange(index, index + size), number))
        at += size
    return parts


def _numbered(*columns: np.ndarray) -> np.ndarray:
    """Numbers the stretches in which no column changes, from 0, int64 [n]."""
    changes = np.zeros(len(columns[0]), dtype=bool)
    for column in columns:
        changes[1:] |= column[1:] != column[:-1]
    return np.cumsum(changes)


def deal(codes: np.ndarray, first: int, batch: int) -> np.ndarray:
    """Spread equal captions over batches.

    Samples whose caption comes again are grouped by it and dealt to the batches in turn, like cards: a caption that
    occurs at most as often as there are whole batches occurs at most once in each, and one that occurs more often is
    spread evenly. All others keep their order in the places that are left, and so mostly their batch: what can be read
    together stays together. This holds within the given samples: other parts of the first and the last batch are dealt
    separately.

    Args:
        codes: the caption hashes of consecutive samples, integers [n].
        first: stream position of the first; batches begin at the multiples of `batch`.
        batch: samples a global batch.

    Returns:
        Permutation, int64 [n].
    """
    _, firsts, inverse, counts = np.unique(codes, return_index=True, return_inverse=True, return_counts=True)
    again = counts[inverse] > 1
    groups = np.flatnonzero(again)
    groups = groups[np.argsort(firsts[inverse[groups]], kind="stable")]  # in the order in which captions are met
    positions = first + np.arange(len(codes))
    slots = np.lexsort((positions // batch, positions % batch))
    order = np.empty_like(slots)
    order[slots[: len(groups)]] = groups
    order[np.sort(slots[len(groups) :])] = np.flatnonzero(~again)
    return order
