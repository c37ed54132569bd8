"""The keys of lost samples, beside what a scan counts."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from silc.data.shards import scan
from silc.data.survey.lost import lost_keys
from tests.data.shards import tars


@settings(max_examples=200, deadline=None)
@given(entries=tars.entries(), cut=st.none() | st.floats(0, 1))
def test_a_reason_has_keys_where_a_scan_counts_samples(entries, cut):
    data = tars.pack(entries)
    if cut is not None:
        data = data[: max(512, int(len(data) * cut) // 512 * 512)]

    def source(start: int, stop: int) -> bytes:
        return data[start:stop]

    try:
        counted = scan(source, len(data), "x.tar", images=tars.IMAGES).lost
    except ValueError:
        return
    found = lost_keys(source, len(data), tars.IMAGES)
    assert {reason for _, reason in found} == set(counted)
    assert len(set(found)) == len(found)
    assert all(count <= counted[reason] for reason, count in Counter(reason for _, reason in found).items())
    assert {key for key, _ in found} <= {key for key, _, _ in tars.files(tars.pack(entries))}
