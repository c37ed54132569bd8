"""Repeats of hashes in files, beside a Counter."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silc.data.survey import repeats


def write(path: Path, hashes: list[tuple[int, int]]) -> None:
    records = np.empty(len(hashes), repeats.RECORD)
    for place, (high, low) in enumerate(hashes):
        records[place] = (high, low, place)
    path.write_bytes(records.tobytes())


def expected(hashes: list[tuple[int, int]], shown: int) -> repeats.Repeats:
    counts = Counter(hashes)
    first = {value: hashes.index(value) for value in counts}
    last = {value: len(hashes) - 1 - hashes[::-1].index(value) for value in counts}
    groups = [(n, first[value], last[value]) for value, n in counts.items() if n > 1]
    groups.sort(key=lambda group: (-group[0], group[1]))
    return repeats.Repeats(len(hashes), len(counts), len(groups), groups[:shown])


WORDS = st.sampled_from([0, 1, 2**62, 2**63, 2**64 - 1, 5 << 59])


@settings(max_examples=60, deadline=None)
@given(hashes=st.lists(st.tuples(WORDS, WORDS), max_size=80), piece=st.integers(1, 9), part=st.integers(1, 30))
def test_as_a_counter_whatever_the_sizes_of_pieces_and_parts(hashes, piece, part, tmp_path_factory):
    path = tmp_path_factory.mktemp("repeats") / "hashes"
    write(path, hashes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repeats, "PIECE", piece)
        patch.setattr(repeats, "PART", part)
        assert repeats.count(path, 3) == expected(hashes, 3)
    assert [each.name for each in path.parent.iterdir()] == ["hashes"]


def test_many_equal_ones_do_not_fill_a_part(tmp_path, monkeypatch):
    path, held = tmp_path / "hashes", []
    records = np.zeros(100_000, repeats.RECORD)
    records["place"] = np.arange(100_000)
    records["high"][::1000] = np.arange(100) << 50
    path.write_bytes(records.tobytes())
    monkeypatch.setattr(repeats, "PIECE", 1000)
    monkeypatch.setattr(repeats, "PART", 2000)
    joined = repeats._joined
    monkeypatch.setattr(repeats, "_joined", lambda groups: held.append(len(groups)) or joined(groups))
    found = repeats.count(path, 1)
    assert (found.records, found.distinct, found.repeated) == (100_000, 100, 1)
    assert found.most == [(99_901, 0, 99_999)]
    assert max(held) <= 4000


def test_what_a_record_cut_short_at_the_end_holds_is_not_counted(tmp_path):
    path = tmp_path / "hashes"
    write(path, [(1, 2), (1, 2)])
    with path.open("ab") as file:
        file.write(b"xyz")
    assert repeats.count(path, 1).more == 1
