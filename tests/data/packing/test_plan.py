"""The plan: every row once, in an order of the seed alone, in units of the asked size."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from silc.data.packing.plan import LEAST_IN_A_SHARD, MOST_IN_A_SHARD, Order, cut, default_samples


class Counted:
    """So many rows, in blocks that begin at some of them, or each by itself."""

    digest = ""

    def __init__(self, count: int, blocks: list[int] | None = None) -> None:
        self._count, self._blocks = count, blocks

    def __len__(self) -> int:
        return self._count

    def blocks(self) -> np.ndarray | None:
        return None if self._blocks is None else np.array(self._blocks)

    def read(self, numbers: np.ndarray):
        raise AssertionError


SEEDS = st.none() | st.integers(0, 2**63 - 1)


@given(st.integers(0, 500), SEEDS, st.integers(1, 100), st.none() | st.integers(1, 600))
def test_every_row_comes_once(count, seed, samples, limit):
    order, units = cut(Counted(count), seed, samples, limit)
    rows = [number for unit in units for number in order.rows(unit).tolist()]
    wanted = count if limit is None else min(count, limit)
    assert len(rows) == len(set(rows)) == wanted
    assert set(rows) <= set(range(count))
    assert [unit.number for unit in units] == list(range(len(units)))
    assert [unit.first for unit in units] == list(range(0, wanted, samples))
    assert all(unit.stop - unit.first == samples for unit in units[:-1])
    if seed is None:
        assert rows == list(range(wanted))


@given(st.lists(st.integers(1, 30), max_size=20), SEEDS, st.integers(1, 60), st.none() | st.integers(1, 400))
def test_blocks_stay_whole(sizes, seed, samples, limit):
    begins = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(int).tolist()
    order, units = cut(Counted(begins[-1], begins), seed, samples, limit)
    rows = [number for unit in units for number in order.rows(unit).tolist()]
    wanted = begins[-1] if limit is None else min(begins[-1], limit)
    assert len(rows) == len(set(rows)) == wanted
    spans = [span for unit in units for span in unit.spans]
    assert all(first in begins for first, _ in spans)
    assert all(stop in begins for _, stop in spans[:-1])
    assert [unit.first for unit in units] == np.cumsum([0, *(len(order.rows(u)) for u in units)]).tolist()[:-1]
    assert all(unit.stop - unit.first >= samples for unit in units[:-1])
    if seed is None:
        assert rows == list(range(wanted))


def test_the_order_is_mixed_and_fixed():
    order = Order(10_000, 0)
    rows = order(0, 10_000)
    assert rows[:5].tolist() == Order(10_000, 0)(0, 5).tolist()
    assert rows.tolist() != Order(10_000, 1)(0, 10_000).tolist()
    assert abs(np.corrcoef(rows, np.arange(10_000))[0, 1]) < 0.05
    assert (np.abs(np.diff(rows)) < 10).mean() < 0.01  # neighbours do not stay neighbours


def test_how_many_samples_a_shard_has():
    assert default_samples(10) == LEAST_IN_A_SHARD
    assert default_samples(5000) == 1000
    assert default_samples(100_000) == 6250
    assert default_samples(10**9) == MOST_IN_A_SHARD
