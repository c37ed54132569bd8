"""The node's cache: right bytes, shared, bounded, in spite of damage, full disks and killed processes."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from silc.storage import Board, NodeCache, Range, StoreFailed, open_store
from silc.storage.pages import TOUCHED, size_of
from silc.storage.room import ABANDONED, Room
from tests.storage.readers import fill, generate, hold
from tests.storage.servers import SHORT, Faults

PAGE = 4096
OBJECTS = {f"s3://b/{i}": random.Random(i).randbytes(size) for i, size in enumerate((3 * PAGE, 10_000, 5, 0))}


class Source:
    """Brings the bytes of OBJECTS, and counts."""

    def __init__(self) -> None:
        self.asked: list[Range] = []

    def __call__(self, ranges):
        self.asked += ranges
        return [OBJECTS[wanted.address][wanted.start : wanted.stop] for wanted in ranges]


def cache_in(folder: Path, limit: int = 1 << 20, versions=lambda address: "v", **more) -> NodeCache:
    return NodeCache(str(folder / "cache"), limit, versions, page=PAGE, **more)


def pages(folder: Path) -> list[Path]:
    return sorted((folder / "cache").rglob("*.page"))


def taken(folder: Path) -> int:
    return Room(str(folder / "cache"), 0).taken()


ranges = st.lists(
    st.builds(
        lambda address, start, length: Range(address, start, start + length),
        st.sampled_from(sorted(OBJECTS)),
        st.integers(0, 14_000),
        st.integers(0, 9000),
    ),
    max_size=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=ranges, limit=st.integers(2, 6))
def test_bytes_are_those_of_the_store(tmp_path, asked, limit):
    cache = cache_in(tmp_path, limit * size_of(PAGE))
    assert cache.read(asked, Source()) == Source()(asked)
    assert cache.read(asked, Source()) == Source()(asked)
    assert taken(tmp_path) <= limit * size_of(PAGE)


def test_a_page_is_fetched_once_for_all(tmp_path):
    first, source = cache_in(tmp_path), Source()
    asked = [Range("s3://b/0", 10, 20), Range("s3://b/0", 4000, 5000), Range("s3://b/1", 9990, 12_000)]
    assert first.read(asked, source) == Source()(asked)
    assert source.asked == [
        Range("s3://b/0", 0, PAGE),
        Range("s3://b/0", PAGE, 2 * PAGE),
        Range("s3://b/1", 2 * PAGE, 3 * PAGE),
    ]
    assert first.counts == (0, 3, 0)
    second, board = cache_in(tmp_path), Board(1)
    found = second.read(asked, lambda ranges: pytest.fail("nothing is fetched"), board.notes(0))
    assert found == Source()(asked)
    assert second.counts == (3, 0, 0)
    assert board.totals().bytes_cached == sum(map(len, found))
    assert len(pages(tmp_path)) == 3


def test_a_replaced_object_has_other_pages(tmp_path):
    versions = {"s3://b/0": "one"}
    cache, source = cache_in(tmp_path, versions=versions), Source()
    asked = [Range("s3://b/0", 0, 10), Range("s3://b/1", 0, 10)]
    cache.read(asked, source)
    cache.read(asked, source)
    assert source.asked == [Range("s3://b/0", 0, PAGE), Range("s3://b/1", 0, 10), Range("s3://b/1", 0, 10)]
    versions["s3://b/0"] = "two"
    cache.read(asked[:1], source)
    assert source.asked[3:] == [Range("s3://b/0", 0, PAGE)]


@pytest.mark.parametrize("damage", ["cut", "longer", "bit", "digest", "empty", "head", "pipe", "link", "swap"])
def test_damaged_pages_are_read_again(tmp_path, damage, caplog):
    asked = [Range("s3://b/0", 100, 200), Range("s3://b/0", PAGE + 100, PAGE + 200)]
    cache_in(tmp_path).read(asked, Source())
    path, other = pages(tmp_path)
    data = bytearray(path.read_bytes())
    if damage in ("bit", "digest", "head"):
        data[{"bit": len(data) - PAGE + 150, "digest": 17, "head": 9}[damage]] ^= 4
    elif damage == "swap":
        data = bytearray(other.read_bytes())  # a good page, of another place
    elif damage != "longer":
        del data[0 if damage == "empty" else len(data) // 2 :]
    path.write_bytes(data + (b"x" if damage == "longer" else b""))
    if damage in ("pipe", "link"):
        path.unlink()
        os.mkfifo(path) if damage == "pipe" else path.symlink_to(other)
    cache = cache_in(tmp_path)
    assert cache.read(asked, Source()) == Source()(asked)
    assert cache.counts == (1, 1, 1)
    assert "is damaged" in caplog.text
    again = cache_in(tmp_path)
    assert again.read(asked, lambda ranges: pytest.fail("it has been mended")) == Source()(asked)


def test_the_oldest_pages_go_out(tmp_path):
    limit = 20 * size_of(PAGE)
    addresses = [f"s3://b/{i}" for i in range(20)]
    cache = cache_in(tmp_path, limit)
    for age, address in enumerate(addresses):
        cache.read([Range(address, 0, 10)], generate)
        path = max(pages(tmp_path), key=lambda page: page.stat().st_mtime)
        os.utime(path, (0, time.time() - 10 * TOUCHED - 1000 + age))
    assert taken(tmp_path) == limit
    cache.read([Range(addresses[0], 0, 10)], generate)  # used: the youngest from now on
    cache.read([Range("s3://b/99", 0, 10)], generate)
    assert taken(tmp_path) <= limit
    counts = []
    for address in [addresses[0], "s3://b/99", *addresses[4:], addresses[1]]:
        looking = cache_in(tmp_path, limit)
        looking.read([Range(address, 0, 10)], generate)
        counts.append(looking.counts.hits)
    assert counts == [1] * 18 + [0]


def test_the_bound_holds_while_four_processes_write(tmp_path):
    limit = 40 * size_of(PAGE)
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=fill, args=(str(tmp_path / "cache"), seed, limit, 40)) for seed in (0, 13, 40, 41)
    ]
    cache_in(tmp_path, limit)
    for process in processes:
        process.start()
    most = 0
    while any(process.is_alive() for process in processes):
        most = max(most, taken(tmp_path))
        time.sleep(0.02)
    assert [process.exitcode for process in processes] == [0] * 4
    assert limit // 2 < most <= limit
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_a_smaller_limit_holds_at_once(tmp_path):
    cache_in(tmp_path, 9 * size_of(PAGE)).read([Range(f"s3://b/{i}", 0, 10) for i in range(9)], generate)
    assert taken(tmp_path) == 9 * size_of(PAGE)
    cache_in(tmp_path, 4 * size_of(PAGE))
    assert 0 < taken(tmp_path) <= 4 * size_of(PAGE)


@pytest.mark.parametrize("kill", [True, False], ids=["killed", "hanging"])
def test_who_holds_a_page_does_not_hold_up_others(tmp_path, kill):
    context = multiprocessing.get_context("spawn")
    ready = tmp_path / "ready"
    holder = context.Process(target=hold, args=(str(tmp_path / "cache"), "s3://b/0", str(ready), kill))
    holder.start()
    while not ready.exists():
        time.sleep(0.01)
    if kill:
        holder.join()
        assert holder.exitcode == -signal.SIGKILL
    cache, source = cache_in(tmp_path, wait=0.3), Source()
    try:
        asked = [Range("s3://b/0", 100, 200)]
        assert cache.read(asked, source) == Source()(asked)
        # The dead one's lock has ended with it; the hanging one's page is read without the cache.
        assert source.asked == ([Range("s3://b/0", 0, PAGE)] if kill else asked)
        began = time.monotonic()
        for _ in range(50):  # and is not waited for each time
            assert cache.read(asked, source) == Source()(asked)
        assert time.monotonic() - began < 50 * 0.3
    finally:
        holder.kill()
        holder.join()


def test_others_wait_for_a_page_that_is_being_fetched(tmp_path):
    started, go = threading.Event(), threading.Event()

    def slow(ranges):
        started.set()
        assert go.wait(60)
        return Source()(ranges)

    asked, found = [Range("s3://b/0", 5, 50)], []
    first = threading.Thread(target=lambda: found.append(cache_in(tmp_path).read(asked, slow)))
    first.start()
    assert started.wait(60)
    second = cache_in(tmp_path)
    waiting = threading.Thread(
        target=lambda: found.append(second.read(asked, lambda ranges: pytest.fail("it was fetched twice")))
    )
    waiting.start()
    time.sleep(0.1)
    assert found == []
    go.set()
    first.join()
    waiting.join()
    assert found == [Source()(asked)] * 2
    assert second.counts == (1, 0, 0)


def test_a_page_that_came_before_the_lock_is_not_fetched_again(tmp_path):
    asked = [Range("s3://b/0", 5, 50)]

    class Late(NodeCache):
        def _lock(self, number, locks):
            cache_in(tmp_path).read(asked, Source())
            return super()._lock(number, locks)

    late = Late(str(tmp_path / "cache"), 1 << 20, lambda address: "v", page=PAGE)
    assert late.read(asked, lambda ranges: pytest.fail("it was fetched twice")) == Source()(asked)


def test_a_store_that_fails_leaves_no_lock(tmp_path):
    def fails(ranges):
        raise StoreFailed("x")

    cache = cache_in(tmp_path)
    with pytest.raises(StoreFailed):
        cache.read([Range("s3://b/0", 0, 5)], fails)
    assert cache_in(tmp_path, wait=0).read([Range("s3://b/0", 0, 5)], Source()) == [OBJECTS["s3://b/0"][:5]]
    assert len(pages(tmp_path)) == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("call", ["write", "posix_fallocate", "rename"])
def test_a_full_disk_ends_only_the_writing(tmp_path, monkeypatch, caplog, number, call):
    kept = [Range("s3://b/1", 0, 50)]
    cache, source = cache_in(tmp_path), Source()
    cache.read(kept, source)

    def full(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, full)
    asked = [Range("s3://b/0", i, i + PAGE) for i in (0, 5, 5000)]
    for _ in range(3):
        assert cache.read(asked, source) == Source()(asked)
        assert cache.read(kept, lambda ranges: pytest.fail("it is there")) == Source()(kept)
    assert caplog.text.count("nothing more is written to the cache") == 1
    assert len(pages(tmp_path)) == 1
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_a_counter_that_is_wrong_is_corrected(tmp_path):
    limit = 10 * size_of(PAGE)
    cache_in(tmp_path, limit).read([Range(f"s3://b/{i}", 0, 10) for i in range(8)], generate)
    counter = tmp_path / "cache/counter"
    assert int.from_bytes(counter.read_bytes(), "little") == taken(tmp_path) == 8 * size_of(PAGE)
    for wrong in (b"", b"x", (1 << 60).to_bytes(8, "little"), bytes(20)):
        counter.write_bytes(wrong)
        (victim := pages(tmp_path)[0]).unlink()
        cache_in(tmp_path, limit).read([Range(f"s3://b/{i}", 0, 10) for i in range(8)], generate)
        assert victim.exists()
        assert int.from_bytes(counter.read_bytes(), "little") == taken(tmp_path) == 8 * size_of(PAGE)


def test_what_killed_processes_left_is_removed_and_other_files_stay(tmp_path):
    limit = 4 * size_of(PAGE)
    cache = cache_in(tmp_path, limit)
    cache.read([Range("s3://b/0", 0, 10)], Source())
    folder = pages(tmp_path)[0].parent
    stale = folder / f"{'0' * 64}.{'0' * 16}.part"
    fresh = folder / f"{'1' * 64}.{'0' * 16}.part"
    mine = [tmp_path / "cache/thesis.page", folder / "notes.txt", tmp_path / "cache/other" / "x.page"]
    mine[2].parent.mkdir()
    for path in (stale, fresh, *mine):
        path.write_bytes(bytes(PAGE))
    os.utime(stale, (0, time.time() - ABANDONED - 100))
    cache.read([Range(f"s3://b/{i}", 0, 10) for i in range(10)], generate)
    assert not stale.exists()
    assert all(path.exists() for path in (fresh, *mine))
    assert taken(tmp_path) <= limit


def test_a_folder_that_somebody_empties_is_made_again(tmp_path):
    cache = cache_in(tmp_path)
    asked = [Range("s3://b/0", 0, 10)]
    cache.read(asked, Source())
    os.rename(tmp_path / "cache", tmp_path / "gone")
    assert cache.read(asked, Source()) == Source()(asked)
    (tmp_path / "cache").mkdir(exist_ok=True)
    (tmp_path / "cache/locks").mkdir(exist_ok=True)
    assert cache_in(tmp_path).read(asked, Source()) == Source()(asked)


@pytest.mark.parametrize(("place", "limit", "words"), [("x", 8000, "less than two pages"), ("f/x", 1 << 20, "f/x")])
def test_what_cannot_be_a_cache_is_said_at_once(tmp_path, place, limit, words):
    (tmp_path / "f").write_bytes(b"")
    with pytest.raises(ValueError, match=words):
        NodeCache(str(tmp_path / place), limit, {}, page=PAGE)


def test_a_run_through_the_store(tmp_path, web):
    data = random.Random(5).randbytes(50_000)
    (web.folder / "x").write_bytes(data)
    web.faults = Faults(error=0.2, drop=0.1, cut=0.1, seed=1)
    rng, board = random.Random(3), Board(1)
    cache = NodeCache(str(tmp_path / "cache"), 1 << 20, {web.address("x"): "etag"}, page=PAGE)
    store = open_store(patience=20, limits=SHORT, cache=cache, board=board)
    for _ in range(30):
        starts = [rng.randrange(50_000) for _ in range(4)]
        found = store.read([Range(web.address("x"), start, start + 900) for start in starts])
        assert found == [data[start : start + 900] for start in starts]
    assert cache.counts.misses == 13
    totals = board.totals()
    assert totals.bytes_read == 50_000
    assert totals.ranges == 120
    assert totals.bytes_cached > 60_000
