"""The order of samples: an endless stream whose every position names one sample, a pure function of (seed, position).

The order does not depend on ranks or workers: each computes which samples its positions name and reads only those. The
state of the stream is one integer, the position, and a run can continue exactly from any position.

A pass goes through every sample once. Its order is made in two steps:

1. shards are cut into chunks of neighbouring samples, and the chunks of all shards are permuted by (seed, pass), so
   that neighbours in the stream come from many shards while reads stay in few places;
2. the stream is cut into blocks, and each block is permuted by (seed, block). The places of samples are shuffled, so
   that neither bytes nor pixels wait in a buffer. In a block that contains the end of a pass, the two sides are
   permuted separately.

A batch that the last samples of a pass do not fill continues with the first of the next pass: none is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from silc.data.randomness import Purpose, random_permutation

CHUNKS_PER_BLOCK = 32  # shards that a block mixes, where there are that many

Arrange = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
"""(shard [n], sample [n], first position) -> permutation [n]: the last step of the order within a block."""


class SampleStream:
    """Maps positions to samples.

    Args:
        counts: samples in each shard.
        seed: of the order.
        block: samples permuted together.
        arrange: rearranges each block after its permutation; must be a pure function.
    """

    def __init__(self, counts: Sequence[int], *, seed: int, block: int, arrange: Arrange | None = None) -> None:
        self.samples_per_pass = int(sum(counts))
        assert self.samples_per_pass > 0
        assert block > 0
        self._seed = seed
        self._block = block
        self._arrange = arrange
        self._shard_ends = np.cumsum(counts)
        chunk = max(1, block // CHUNKS_PER_BLOCK)
        firsts = [np.arange(0, count, chunk) for count in counts]
        self._chunk_shard = np.repeat(np.arange(len(counts)), [len(first) for first in firsts])
        self._chunk_first = np.concatenate(firsts)
        self._chunk_size = np.minimum(chunk, np.asarray(counts)[self._chunk_shard] - self._chunk_first)
        # Blocks are used in order; two are kept since a batch may cross their border.
        self._cached_block = lru_cache(maxsize=2)(self._make_block)
        self._cached_pass = lru_cache(maxsize=2)(self._make_pass)

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_cached")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._cached_block = lru_cache(maxsize=2)(self._make_block)
        self._cached_pass = lru_cache(maxsize=2)(self._make_pass)

    def locate(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """The samples at positions [start, stop): their shards and their indices there, int64 [stop - start] each."""
        shards, samples = [], []
        for number in range(start // self._block, -(-stop // self._block)):
            first = number * self._block
            inside = slice(max(start - first, 0), min(stop - first, self._block))
            shard, sample = self._cached_block(number)
            shards.append(shard[inside])
            samples.append(sample[inside])
        return np.concatenate(shards), np.concatenate(samples)

    def sample_at(self, index: int) -> tuple[int, int]:
        """(shard, sample) of an index in [0, samples_per_pass), counted through the shards in order."""
        shard = int(np.searchsorted(self._shard_ends, index, side="right"))
        return shard, index - int(self._shard_ends[shard - 1]) * (shard > 0)

    def _make_pass(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The permutation of chunks in a pass, and the position in the pass at which each begins."""
        chunks = random_permutation(self._seed, Purpose.CHUNKS, number, len(self._chunk_size))
        sizes = self._chunk_size[chunks]
        return chunks, np.cumsum(sizes) - sizes

    def _unshuffled(self, number: int, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        chunks, begins = self._cached_pass(number)
        slot = np.searchsorted(begins, index, side="right") - 1
        chunk = chunks[slot]
        return self._chunk_shard[chunk], self._chunk_first[chunk] + index - begins[slot]

    def _make_block(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        shards, samples = [], []
        start, stop = number * self._block, (number + 1) * self._block
        keys = np.argsort(random_permutation(self._seed, Purpose.BLOCK, number, self._block), kind="stable")
        at = start
        while at < stop:
            pass_number, index = divmod(at, self.samples_per_pass)
            size = min(stop - at, self.samples_per_pass - index)
            order = np.argsort(keys[at - start : at - start + size], kind="stable")
            shard, sample = self._unshuffled(pass_number, index + order)
            if self._arrange is not None:
                dealt = self._arrange(shard, sample, at)
                shard, sample = shard[dealt], sample[dealt]
            shards.append(shard)
            samples.append(sample)
            at += size
        return np.concatenate(shards), np.concatenate(samples)


def deal(captions: Sequence[str], first: int, batch: int) -> np.ndarray:
    """Spread equal captions over batches.

    Samples are grouped by caption and dealt to the batches in turn, like cards: a caption that occurs at most as often
    as there are whole batches occurs at most once in each, and one that occurs more often is spread evenly. This holds
    within the given samples: other parts of the first and the last batch are dealt separately.

    Args:
        captions: of consecutive samples.
        first: stream position of the first; batches begin at the multiples of `batch`.
        batch: samples a global batch.

    Returns:
        Permutation, int64 [len(captions)].
    """
    numbers: dict[str, int] = {}
    code = np.array([numbers.setdefault(caption, len(numbers)) for caption in captions])
    positions = first + np.arange(len(captions))
    slots = np.lexsort((positions // batch, positions % batch))
    order = np.empty_like(slots)
    order[slots] = np.argsort(code, kind="stable")
    return order
