"""Whatever happened to a tar: no loop, no foreign exception, bounded memory, and the samples before it are found."""

from __future__ import annotations

import contextlib
import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silc.data.shards import Unreadable, parse, scan
from silc.data.shards.errors import CutShort
from silc.data.shards.tar import Members, NotTar
from tests.data.shards.headers import RECORD, sum_up
from tests.data.shards.mutations import Damaged, check, damage, fuzz, whole


def test_damaged_tars():
    outcomes = fuzz(600, seed=1)
    assert sum(outcomes.values()) == 600
    assert set(outcomes) == {"noted", "as if whole", "not a tar", "lost"}  # else the damage is of one kind only


def test_the_check_notices_what_is_missing(monkeypatch):
    """A scan that loses a sample without a word would be found out."""
    data, samples = whole(random.Random(5))
    assert check(Damaged(data, len(data), samples)) == "as if whole"
    monkeypatch.setattr("tests.data.shards.mutations.parse", lambda part: parse(part[: len(part) // 3]))
    with pytest.raises(AssertionError):
        check(Damaged(data, len(data), samples))


@given(data=st.binary(max_size=4096))
@settings(max_examples=300, deadline=None)
def test_any_bytes(data):
    """They are refused in one way, or what is found lies inside them."""
    with contextlib.suppress(ValueError):
        starts = scan(lambda start, stop: data[start:stop], len(data), "x").starts.tolist()
        assert starts == sorted(set(starts))
        assert starts[-1] <= len(data)
    with contextlib.suppress(Unreadable):
        assert all(bytes(member) in data for member in parse(data).members.values())


@given(
    fields=st.lists(st.tuples(st.integers(0, 511), st.binary(min_size=1, max_size=20)), max_size=6), rest=st.binary()
)
@settings(max_examples=400, deadline=None)
def test_any_header_with_a_checksum_that_holds(fields, rest):
    record = bytearray(RECORD)
    record[:5], record[124:135] = b"a.jpg", b"00000000010"
    for at, value in fields:
        record[at : at + len(value)] = value[: RECORD - at]
    data = sum_up(bytes(record)) + rest
    before = -1
    try:
        for start, _, _, offset, size in Members(lambda start, stop: data[start:stop], len(data)):
            assert before < start < offset <= len(data) + RECORD
            assert size >= 0
            before = start
    except (CutShort, NotTar):
        pass


def test_memory_is_bounded():
    tracemalloc.start()
    try:
        for number in range(60):
            damaged = damage(random.Random(f"memory/{number}"))
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            check(damaged)
            assert tracemalloc.get_traced_memory()[1] - before < 4 * len(damaged.data) + (1 << 20)
    finally:
        tracemalloc.stop()
