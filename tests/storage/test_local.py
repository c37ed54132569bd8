"""Local files: what fails for a while, what is no file, how many are open."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import threading
import time

import pytest

from silc.storage import Board, Limits, Range, StoreFailed, list_tars, open_store, put, read_whole, stat
from silc.storage.local import OPEN_FILES
from tests.storage.servers import SHORT


@pytest.fixture
def failing(monkeypatch):
    """Function (call, *errnos): os.open or os.pread raises one after the other, then works again."""

    def fail(call: str, *numbers: int) -> list[int]:
        real, left = getattr(os, call), list(numbers)

        def wrapped(first, *rest, **named):
            if left and not str(first).startswith("/proc") and (call == "pread" or "x.tar" in str(first)):
                number = left.pop(0)
                raise OSError(number, os.strerror(number), str(first))
            return real(first, *rest, **named)

        monkeypatch.setattr(os, call, wrapped)
        return left

    return fail


@pytest.mark.parametrize("call", ["open", "pread"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EMFILE])
def test_a_file_system_that_fails_for_a_while_is_waited_for(tmp_path, failing, call, number):
    (tmp_path / "x.tar").write_bytes(b"0123456789")
    left, board = failing(call, number, number, errno.EIO), Board(1)
    store = open_store(patience=60, limits=SHORT, board=board)
    assert store.read([Range(str(tmp_path / "x.tar"), 2, 5), Range(str(tmp_path / "x.tar"), 0, 1)]) == [b"234", b"0"]
    assert not left
    assert board.totals()[:1] + board.totals()[2:5] == (2 + (call == "pread"), 4, 0, 2)


def test_a_stale_handle_is_opened_again(tmp_path, failing):
    path = tmp_path / "x.tar"
    path.write_bytes(b"old")
    store = open_store(patience=60, limits=SHORT)
    assert store.read([Range(str(path), 0, 3)]) == [b"old"]
    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "new").rename(path)
    failing("pread", errno.ESTALE)
    assert store.read([Range(str(path), 0, 3)]) == [b"new"]


def test_a_file_that_fails_for_long_is_named(tmp_path, failing):
    (tmp_path / "x.tar").write_bytes(b"0123456789")
    failing("pread", *[errno.EIO] * 10_000)
    message = (
        r"x\.tar could not be read for \d s \(\d+ tries, last: Input/output error \(EIO\)\); check its file system"
    )
    with pytest.raises(StoreFailed, match=message):
        open_store(patience=0.3, limits=SHORT).read([Range(str(tmp_path / "x.tar"), 0, 5)])


def test_an_absent_file_is_waited_for_less_long(tmp_path):
    store = open_store(patience=600, limits=SHORT)
    began = time.monotonic()
    with pytest.raises(StoreFailed, match=r"No such file or directory \(ENOENT\)\); check the path"):
        store.read([Range(str(tmp_path / "x.tar"), 0, 5)])
    assert time.monotonic() - began < 60
    threading.Timer(0.1, (tmp_path / "x.tar").write_bytes, [b"0123456789"]).start()
    store = open_store(patience=600, limits=Limits(absent=60, first_pause=0.01))
    assert store.read([Range(str(tmp_path / "x.tar"), 0, 5)]) == [b"01234"]


def test_what_may_not_be_read_is_not_waited_for(tmp_path, failing):
    (tmp_path / "x.tar").write_bytes(b"0123456789")
    left = failing("open", *[errno.EACCES] * 10)
    with pytest.raises(StoreFailed, match=r"4 tries, last: Permission denied \(EACCES\)\); check its permissions"):
        open_store(patience=600, limits=SHORT).read([Range(str(tmp_path / "x.tar"), 0, 5)])
    assert len(left) == 10 - 4


def test_a_pipe_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "x.tar")
    for path, words in ((str(tmp_path / "x.tar"), "a pipe, socket or device"), (str(tmp_path), "a folder")):
        with pytest.raises(StoreFailed, match=rf"last: {words}\); give regular files"):
            open_store(patience=600, limits=SHORT).read([Range(path, 0, 5)])
    for call in (stat, lambda path: read_whole(path, 5)):
        with pytest.raises(ValueError, match="is a pipe, socket or device"):
            call(str(tmp_path / "x.tar"))


def test_few_files_stay_open(tmp_path):
    def still_open() -> int:
        found = 0
        for descriptor in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):  # the one that lists
                found += os.readlink(f"/proc/self/fd/{descriptor}").startswith(str(tmp_path))
        return found

    store = open_store(patience=5, limits=SHORT)
    for i in range(3 * OPEN_FILES):
        (tmp_path / f"{i}").write_bytes(b"%03d" % i)
    asked = [Range(str(tmp_path / f"{i}"), 0, 3) for i in range(3 * OPEN_FILES)]
    assert store.read(asked) == [b"%03d" % i for i in range(3 * OPEN_FILES)]
    assert still_open() == OPEN_FILES
    store.close()
    assert still_open() == 0
    assert store.read(asked[:1]) == [b"000"]


def test_a_used_store_goes_on_in_a_forked_process(tmp_path):
    (tmp_path / "x").write_bytes(b"0123456789")
    board, asked = Board(1), [Range(str(tmp_path / "x"), 2, 5)]
    store = open_store(patience=5, limits=SHORT, board=board)
    assert store.read(asked) == [b"234"]
    store._board.notes(0)._lock.acquire()  # by a thread that the other process will not have
    context = multiprocessing.get_context("fork")
    child = context.Process(target=lambda: os._exit(store.read(asked) != [b"234"]))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert board.totals().ranges == 2


def test_threads_share_a_store(tmp_path):
    paths = [str(tmp_path / f"{i}") for i in range(2 * OPEN_FILES)]
    for i, path in enumerate(paths):
        put(path, bytes([i]) * 100)
    store, wrong = open_store(patience=5, limits=SHORT), []

    def read(seed: int) -> None:
        for i in range(400):
            number = (seed * 37 + i * 11) % len(paths)
            if store.read([Range(paths[number], 10, 20)]) != [bytes([number]) * 10]:
                wrong.append(number)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_file_that_was_cut_ends_there(tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(bytes(100))
    store = open_store(patience=5, limits=SHORT)
    assert len(store.read([Range(str(path), 0, 100)])[0]) == 100
    os.truncate(path, 30)
    assert store.read([Range(str(path), 0, 100), Range(str(path), 30, 40), Range(str(path), 5, 5)]) == [
        bytes(30),
        b"",
        b"",
    ]


def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(tmp_path, monkeypatch):
    def scandir(path):
        raise OSError(errno.EIO, "x")

    (tmp_path / "link.tar").symlink_to(tmp_path / "gone")
    assert list_tars(str(tmp_path)) == [str(tmp_path / "link.tar")]
    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(StoreFailed, match="could not be listed"):
        list_tars(str(tmp_path), patience=0.1, limits=SHORT)
