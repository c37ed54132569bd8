"""What other programs counted is read as they write it, and never believed blindly."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silc.data.shards.imports import ENERGON, LIMIT, OPEN_CLIP, STATS_LIMIT, Counts, counts_in, stats_of


class Files:
    """read(address, limit) of texts in memory."""

    def __init__(self, **texts: str | bytes) -> None:
        self.texts, self.limits = texts, []

    def __call__(self, address: str, limit: int) -> bytes:
        self.limits.append(limit)
        if address not in self.texts:
            raise ValueError(f"{address} does not exist")
        text = self.texts[address]
        return text if isinstance(text, bytes) else text.encode()


# As img2dataset 1.45 writes it for each shard.
STATS = """{
    "count": 10000,
    "successes": 8761,
    "failed_to_download": 1200,
    "failed_to_resize": 39,
    "duration": 91.2,
    "start_time": 1690000000.0,
    "end_time": 1690000091.2,
    "status_dict": {"success": 8761, "HTTP Error 404: Not Found": 900}
}"""
INFO = json.dumps({"energon_version": "7.4.1", "shard_counts": {"00000.tar": 10, "part/00001.tar": 20}})


def test_img2dataset():
    files = Files(**{"s3://b/00000_stats.json": STATS})
    assert stats_of("s3://b/00000.tar", files) == 8761
    assert stats_of("s3://b/00001.tar", files) is None
    assert set(files.limits) == {STATS_LIMIT}


def test_open_clip():
    files = Files(**{"/a/sizes.json": '{"00000.tar": 9876, "00001.tar": "9875", "00002.tar": null}'})
    assert counts_in("/a/", files) == Counts(OPEN_CLIP, {"00000.tar": 9876, "00001.tar": 9875})
    assert set(files.limits) == {LIMIT}


def test_megatron_energon_comes_first():
    files = Files(**{"/a/.nv-meta/.info.json": INFO, "/a/sizes.json": '{"00000.tar": 1}'})
    assert counts_in("/a/", files) == Counts(ENERGON, {"00000.tar": 10, "part/00001.tar": 20})


def test_nothing():
    assert counts_in("/a/", Files()) is None


ODD = ["", "7", "[]", "null", "{", "[" * 10**5, '{"shard_counts": 3}', '{"successes": "many"}', b"\xff\xfe"]


@pytest.mark.parametrize("text", ODD)
def test_what_cannot_be_understood_is_passed_over(text):
    assert stats_of("/a/0.tar", Files(**{"/a/0_stats.json": text})) is None
    files = Files(**{"/a/.nv-meta/.info.json": text, "/a/sizes.json": '{"0.tar": 4}'})
    assert counts_in("/a/", files) == Counts(OPEN_CLIP, {"0.tar": 4})


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5)


@given(JSON)
def test_counts_are_numbers(value):
    text = json.dumps({"x.tar": value})
    counts = counts_in("/a/", Files(**{"/a/sizes.json": text}))
    assert counts is not None
    if type(value) is int and 0 <= value < 2**53:
        assert counts.by_name == {"x.tar": value}
    else:
        assert all(type(count) is int and 0 <= count < 2**53 for count in counts.by_name.values())
    found = stats_of("/a/x.tar", Files(**{"/a/x_stats.json": json.dumps({"successes": value})}))
    assert found is None or 0 <= found < 2**53
