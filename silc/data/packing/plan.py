"""How rows become units of work: which rows, in which order. It depends on the source and the options alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from silc.data.order import ROUNDS, feistel
from silc.data.packing.rows import Rows
from silc.data.randomness import Purpose, random_words

MOST_IN_A_SHARD = 10_000
LEAST_IN_A_SHARD, SPREAD = 1000, 16  # small sources: so many samples at least, or that many shards


@dataclass(frozen=True)
class Unit:
    """Rows that one process turns into a few shards.

    Attributes:
        number: of the unit.
        first: of the rows, counted through all units: the samples' keys.
        spans: (first, stop) of rows in the source, one after the other; empty: rows `first` to `stop` of the order.
        stop: behind the last row.
    """

    number: int
    first: int
    stop: int
    spans: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Order:
    """A permutation of the rows without a table. seed: None: the source's own order."""

    count: int
    seed: int | None

    def __call__(self, first: int, stop: int) -> np.ndarray:
        """Numbers of the rows at places first to stop, int64 [stop - first]."""
        places = np.arange(first, stop)
        if self.seed is None or self.count < 2:
            return places
        keys = random_words(self.seed, Purpose.PACKING, 0, ROUNDS)
        return feistel(places.astype(np.uint64), self.count, keys).astype(np.int64)

    def rows(self, unit: Unit) -> np.ndarray:
        """Numbers of a unit's rows, in order."""
        if unit.spans:
            return np.concatenate([np.arange(first, stop) for first, stop in unit.spans])
        return self(unit.first, unit.stop)


def default_samples(rows: int) -> int:
    """Samples of a shard, where none are asked for: fewer where there are few, so that several processes have work."""
    return min(MOST_IN_A_SHARD, max(LEAST_IN_A_SHARD, -(-rows // SPREAD)))


def cut(rows: Rows, seed: int | None, samples: int, limit: int | None) -> tuple[Order, list[Unit]]:
    """The order of rows, and its units.

    Blocks that a source reads as a whole are permuted as such, and each unit takes whole ones.

    Args:
        seed: of the order; None: the source's own.
        samples: rows of a unit.
        limit: rows of all units; None: all.
    """
    count = len(rows) if limit is None else min(limit, len(rows))
    blocks = rows.blocks()
    if blocks is None:
        order = Order(len(rows), seed)
        firsts = range(0, count, samples)
        return order, [Unit(i, first, min(first + samples, count)) for i, first in enumerate(firsts)]
    units: list[Unit] = []
    spans: list[tuple[int, int]] = []
    first = at = 0
    for block in Order(len(blocks) - 1, seed)(0, len(blocks) - 1).tolist():
        start, stop = int(blocks[block]), int(blocks[block + 1])
        stop = min(stop, start + count - at)
        if stop <= start:
            break
        spans.append((start, stop))
        at += stop - start
        if at - first >= samples:
            units.append(Unit(len(units), first, at, tuple(spans)))
            first, spans = at, []
    if spans:
        units.append(Unit(len(units), first, at, tuple(spans)))
    return Order(len(rows), seed), units
