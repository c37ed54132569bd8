"""The order of one source in a pass: chunks of neighbouring samples, permuted without a table of samples or of chunks.

1. Shards are cut into chunks. The full chunks are numbered through the shards and permuted: by a table of up to
   TABLE_LIMIT entries, beyond it by a Feistel network, which computes each entry from its number.
2. The tails, what is left at the end of a shard, have a permutation of their own and stand evenly among the full
   chunks. All full chunks have one size, so that a position leads to its chunk by a division.
3. The sequence is a circle, entered at a random place: every sample is equally likely at every position, to the last
   sample of a pass, however chunks, tails and batches divide.

Memory is a few numbers a shard: 7 MB for 140,000 shards, two passes in the cache, whatever their number of samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import isqrt
from typing import NamedTuple

import numpy as np

from silc.data.randomness import Purpose, random_permutation, random_words

TABLE_LIMIT = 65_536  # full chunks up to which their permutation is a table: half a MiB a pass, 5 ms to make
ROUNDS = 8  # of the Feistel network; four suffice where its functions are ideal (Luby and Rackoff, 1988)


class PassOrder:
    """Maps positions in a pass over one source to its samples.

    Args:
        counts: samples in each shard, int [shards].
        chunk: samples of a chunk.
        seed: of the order.
        stream_number: of the source; sources with different numbers have independent orders.
        table_limit: other values than the default are for tests.

    Attributes:
        samples: of a pass.
    """

    def __init__(
        self,
        counts: Sequence[int] | np.ndarray,
        chunk: int,
        seed: int,
        stream_number: int,
        *,
        table_limit: int = TABLE_LIMIT,
    ) -> None:
        assert chunk > 0
        sizes = np.asarray(counts, dtype=np.int64)
        self._arguments = (sizes, chunk, seed, stream_number, table_limit)
        self._chunk, self._seed, self._stream_number = chunk, seed, stream_number
        self._ends = np.cumsum(sizes)
        self.samples = int(self._ends[-1])
        full, tails = np.divmod(sizes, chunk)
        self._full_begins = np.concatenate([[0], np.cumsum(full)])  # the number of each shard's first full chunk
        self._full = int(self._full_begins[-1])
        self._tail_shards = np.flatnonzero(tails).astype(np.int32)
        self._tail_sizes = tails[self._tail_shards].astype(np.int32)
        self._by_table = self._full <= table_limit
        self._cached_pass = lru_cache(maxsize=2)(self._make_pass)  # a block may hold the end of one and another's start

    def __reduce__(self) -> tuple:
        counts, chunk, seed, stream_number, table_limit = self._arguments
        return _restore, (counts, chunk, seed, stream_number, table_limit)

    def locate(self, index: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The samples at positions in a pass.

        Args:
            index: positions in [0, samples), int64 [n], in any order; runs of neighbours are found fastest.
            number: of the pass.

        Returns:
            shard, sample in it: int64 [n] each.
        """
        tables = self._cached_pass(number)
        circle = index + tables.entry
        circle -= self.samples * (circle >= self.samples)
        if not len(self._tail_shards):
            return self._full_samples(circle, tables)
        tail = np.searchsorted(tables.tail_begins, circle, side="right") - 1  # the last that begins here or before
        # Full samples before this place, if its tail is past; fewer than there are before that tail, if it is not.
        at = circle - self._tails_before(tables, tail + 1)
        inside = at < self._slot(tail) * self._chunk
        shard, sample = self._full_samples(np.where(inside, 0, at), tables) if self._full else (0 * at, 0 * at)
        if inside.any():
            tail = tail[inside]
            shard[inside] = tables.tail_shards[tail]
            sample[inside] = circle[inside] - tables.tail_begins[tail]
            sample[inside] += (self._full_begins[shard[inside] + 1] - self._full_begins[shard[inside]]) * self._chunk
        return shard, sample

    def sample_at(self, index: int) -> tuple[int, int]:
        """(shard, sample) of an index in [0, samples), counted through the shards in order."""
        shard = int(np.searchsorted(self._ends, index, side="right"))
        return shard, index - int(self._ends[shard - 1]) * (shard > 0)

    def _slot(self, tail: np.ndarray) -> np.ndarray:
        """Full chunks that stand before a tail."""
        return tail * self._full // len(self._tail_shards)

    def _tails_before(self, tables: _Pass, tail: np.ndarray) -> np.ndarray:
        """Samples of all tails that stand before a tail."""
        return tables.tail_begins[tail] - self._slot(tail) * self._chunk

    def _full_samples(self, at: np.ndarray, tables: _Pass) -> tuple[np.ndarray, np.ndarray]:
        """Shard and sample of places counted through the full chunks alone."""
        slot = at // self._chunk
        begins = np.flatnonzero(np.diff(slot, prepend=-1))  # one look-up for each run of one chunk
        lengths = np.diff(begins, append=len(slot))
        slots = slot[begins]
        if self._by_table:
            chunk = tables.chunks[slots]
        else:
            chunk = feistel(slots.astype(np.uint64), self._full, tables.chunks).astype(np.int64)
        shard = np.searchsorted(self._full_begins, chunk, side="right") - 1
        first = (chunk - self._full_begins[shard] - slots) * self._chunk
        return np.repeat(shard, lengths), np.repeat(first, lengths) + at

    def _make_pass(self, number: int) -> _Pass:
        counter = self._stream_number << 64 | number
        if self._by_table:
            chunks = random_permutation(self._seed, Purpose.CHUNKS, counter, self._full)
        else:
            chunks = random_words(self._seed, Purpose.CHUNKS, counter << 64, ROUNDS)
        entry = int(random_words(self._seed, Purpose.ROTATION, counter << 64, 1)[0]) * self.samples >> 64
        order = random_permutation(self._seed, Purpose.TAILS, counter, len(self._tail_shards))
        begins = np.zeros(len(order) + 1, dtype=np.int64)
        np.cumsum(self._tail_sizes[order], out=begins[1:])
        if len(order):
            begins += self._slot(np.arange(len(order) + 1)) * self._chunk
        return _Pass(entry, chunks, self._tail_shards[order], begins)


class _Pass(NamedTuple):
    """What differs between passes.

    entry: place in the circle where the pass begins. chunks: the table of full chunks, int64 [full], or the keys of the
    Feistel network, uint64 [ROUNDS]. tail_shards: int32 [tails]. tail_begins: places in the circle, int64 [tails + 1];
    the last is the end of the circle.
    """

    entry: int
    chunks: np.ndarray
    tail_shards: np.ndarray
    tail_begins: np.ndarray


def _restore(counts: np.ndarray, chunk: int, seed: int, stream_number: int, table_limit: int) -> PassOrder:
    return PassOrder(counts, chunk, seed, stream_number, table_limit=table_limit)


def feistel(values: np.ndarray, size: int, keys: np.ndarray) -> np.ndarray:
    """A permutation of range(size) without a table.

    A Feistel network whose halves are numbers below a and b, the least near-square a x b >= size, in place of bits
    (Black and Rogaway, Ciphers with Arbitrary Finite Domains, 2002, method 3): at most one value in sqrt(size) or so
    lands outside and goes through the network again, where a power of two would cost up to four goes a value.

    Args:
        values: below `size`, uint64 [n].
        size: of the domain, up to 2^62.
        keys: random words, one a round, uint64 [rounds].

    Returns:
        uint64 [n].
    """
    left = isqrt(size - 1) + 1
    right = -(-size // left)
    out = _rounds(values, left, right, keys)
    while len(outside := np.flatnonzero(out >= np.uint64(size))):
        out[outside] = _rounds(out[outside], left, right, keys)
    return out


def _rounds(values: np.ndarray, left: int, right: int, keys: np.ndarray) -> np.ndarray:
    sizes = np.uint64(left), np.uint64(right)
    halves = list(np.divmod(values, sizes[1]))
    for number, key in enumerate(keys):
        mine, other = number % 2, 1 - number % 2
        halves[mine] = (halves[mine] + _mix(halves[other] ^ key) % sizes[mine]) % sizes[mine]
    return halves[0] * sizes[1] + halves[1]


def _mix(words: np.ndarray) -> np.ndarray:
    """A hash of 64-bit words, each bit of which depends on all: SplitMix64's finaliser (Steele and others, 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
