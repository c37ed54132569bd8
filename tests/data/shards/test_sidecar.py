"""Sidecars give back what was written, a few numbers at a time; those that do not fit their shard are noticed."""

from __future__ import annotations

import pickle
import random
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silc.data.shards.errors import Unreadable
from silc.data.shards.manifest import Manifest, Row
from silc.data.shards.manifest_file import packed, parsed
from silc.data.shards.sidecar import CHUNK, MISFIT, Hashes, Offsets, hashes_of, offsets_of
from silc.data.shards.sidecar import packed as sidecar_bytes
from tests.data.shards.index_fuzz import Memory, fuzz


def made(counts: list[int], seed: int = 0) -> tuple[Manifest, Memory, list[np.ndarray], list[np.ndarray]]:
    """A manifest, a store of its sidecars, and what these hold."""
    rng = np.random.default_rng(seed)
    offsets = [np.cumsum(rng.integers(1, 9, count + 1), dtype=np.uint64) * np.uint64(512) for count in counts]
    hashes = [rng.integers(0, 2**63, count, dtype=np.uint64) for count in counts]
    rows = [
        Row(f"{i}.tar", count, int(each[-1]), "v", "{}")
        for i, (count, each) in enumerate(zip(counts, offsets, strict=True))
    ]
    manifest = parsed(packed(rows, base=None, caption="txt", images=[]), "s3://b/shards.manifest")
    files = {f"s3://b/{i}.tar.idx": sidecar_bytes(each) for i, each in enumerate(offsets)}
    files |= {f"s3://b/{i}.tar.cap": sidecar_bytes(each) for i, each in enumerate(hashes)}
    return manifest, Memory(files), offsets, hashes


COUNTS = [1, 255, 256, 257, 700, 0, 512]


@st.composite
def requests(draw) -> list[tuple[int, int, int]]:
    found = []
    for shard in draw(st.lists(st.sampled_from([i for i, count in enumerate(COUNTS) if count]), max_size=8)):
        first = draw(st.integers(0, COUNTS[shard] - 1))
        found.append((shard, first, draw(st.integers(1, COUNTS[shard] - first))))
    return found


@given(st.lists(requests(), max_size=6), st.integers(1, 9))
@settings(deadline=None)
def test_numbers_are_those_of_the_whole_files(batches, chunks):
    """Whatever is kept from earlier requests, and however little."""
    manifest, store, offsets, hashes = made(COUNTS)
    starts, captions = Offsets(manifest, store, chunks=chunks), Hashes(manifest, store, chunks=chunks)
    for batch in batches:
        before = store.reads
        for (shard, first, count), found in zip(batch, starts.lookup(batch), strict=True):
            np.testing.assert_array_equal(found, offsets[shard][first : first + count + 1])
        assert store.reads <= before + 1
        for (shard, first, count), found in zip(batch, captions.lookup(batch), strict=True):
            np.testing.assert_array_equal(found, hashes[shard][first : first + count])
        assert store.reads <= before + 2
        assert max(len(starts._kept), len(captions._kept)) <= chunks


def test_what_is_kept_is_not_read_again_and_neighbours_are_one_range():
    manifest, store, _, _ = made([5000, 5000])
    starts = Offsets(manifest, store)
    starts.lookup([(0, 10, 1), (0, 250, 300), (1, 4999, 1), (0, 4000, 1)])
    assert (store.reads, store.ranges) == (1, 3)
    starts.lookup([(0, 0, CHUNK * 2), (1, 4998, 2)])
    assert (store.reads, store.ranges) == (1, 3)
    starts.lookup([(0, 0, CHUNK * 4)])
    assert (store.reads, store.ranges) == (2, 4)


def test_the_least_lately_used_is_given_up():
    manifest, store, _, _ = made([5000])
    starts = Offsets(manifest, store, chunks=2)
    for first in (0, 1000, 0, 2000, 0):
        starts.lookup([(0, first, 1)])
    assert store.reads == 3
    starts.lookup([(0, 1000, 1)])
    assert store.reads == 4


def test_another_process_reads_for_itself():
    manifest, store, offsets, _ = made([600])
    starts = Offsets(manifest, store)
    starts.lookup([(0, 0, 600)])
    other = pickle.loads(pickle.dumps(starts))
    assert not other._kept
    (found,) = other.lookup([(0, 5, 2)])
    np.testing.assert_array_equal(found, offsets[0][5:8])


def test_the_format_is_that_of_megatron_energon():
    offsets = np.array([0, 1536, 512 * 2**31, 512 * 2**31 + 1024], np.uint64)
    assert sidecar_bytes(offsets) == b"".join(struct.pack("<Q", value) for value in offsets.tolist())


def cut(data: bytes) -> bytes:
    return data[: 8 * 500 + 3]


def swapped(data: bytes) -> bytes:
    numbers = np.frombuffer(data, "<u8").copy()
    numbers[[520, 521]] = numbers[[521, 520]]
    return numbers.tobytes()


def beyond(data: bytes) -> bytes:
    numbers = np.frombuffer(data, "<u8").copy()
    numbers[-1] += 512
    return numbers.tobytes()


def odd(data: bytes) -> bytes:
    numbers = np.frombuffer(data, "<u8").copy()
    numbers[520] += 1
    return numbers.tobytes()


@pytest.mark.parametrize(
    ("change", "first"), [(cut, 499), (swapped, 520), (beyond, 599), (odd, 520), (lambda _: b"", 0)]
)
def test_offsets_that_do_not_fit_are_noticed_where_they_are_asked_for(change, first):
    """The other samples of the batch can still be read, and those of the shard that are not touched."""
    manifest, store, offsets, _ = made([600, 600])
    store.files["s3://b/0.tar.idx"] = change(store.files["s3://b/0.tar.idx"])
    wrong, right = Offsets(manifest, store).lookup([(0, first, 1), (1, first, 1)])
    assert isinstance(wrong, Unreadable)
    assert str(wrong) == MISFIT
    np.testing.assert_array_equal(right, offsets[1][first : first + 2])
    with pytest.raises(ValueError, match=r"the index of 0\.tar is damaged .*silc shards index"):
        offsets_of(store.files["s3://b/0.tar.idx"], int(manifest.sizes[0]), "0.tar")
    if first:
        np.testing.assert_array_equal(Offsets(manifest, store).lookup([(0, 0, 200)])[0], offsets[0][:201])


def test_the_end_of_a_cut_tar_is_no_multiple_of_a_record():
    data = struct.pack("<3Q", 0, 1024, 2049)
    assert offsets_of(data, 2049, "x").tolist() == [0, 1024, 2049]
    manifest = parsed(packed([Row("x", 2, 2049, "", "{}")], base=None, caption=None, images=[]), "/a/s.manifest")
    (found,) = Offsets(manifest, Memory({"/a/x.idx": data})).lookup([(0, 0, 2)])
    assert found.tolist() == [0, 1024, 2049]


def test_hashes_of_another_number_of_samples_are_noticed():
    manifest, store, _, hashes = made([600, 600])
    store.files["s3://b/0.tar.cap"] = cut(store.files["s3://b/0.tar.cap"])
    wrong, right = Hashes(manifest, store).lookup([(0, 500, 4), (1, 500, 4)])
    assert isinstance(wrong, Unreadable)
    np.testing.assert_array_equal(right, hashes[1][500:504])
    with pytest.raises(ValueError, match=r"the index of 0\.tar is damaged"):
        hashes_of(store.files["s3://b/0.tar.cap"], 600, "0.tar")


@given(st.binary(max_size=80), st.integers(0, 2**13))
def test_any_bytes_are_offsets_or_refused(data, size):
    try:
        offsets = offsets_of(data, size, "x").tolist()
    except ValueError:
        return
    assert offsets == sorted(set(offsets))
    assert offsets[-1] <= size
    assert len(offsets) == len(data) // 8 > 0


def test_damage_at_random_is_refused_or_harmless():
    """The same with more rounds: fuzz(10**6, seed)."""
    found = fuzz(300, seed=random.randrange(10**9))
    assert sum(found.values()) == 600
    assert found["manifests refused"] > 50
    assert found["sidecars refused"] > 50
