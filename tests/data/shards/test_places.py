"""Where an index is kept when it cannot lie beside its shards, and whose turn it is to make it."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from pathlib import Path

import pytest

from silc.data.shards.places import absolute, cache_of, cache_root, made, only_one, write


def test_the_folder_of_caches(monkeypatch):
    monkeypatch.setenv("SILC_CACHE", "/scratch/silc")
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/me/.caches")
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_root() == Path("/scratch/silc")
    monkeypatch.setenv("SILC_CACHE", "")
    assert cache_root() == Path("/home/me/.caches/silc")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root() == Path("/home/me/.cache/silc")


def test_what_an_index_is_for_tells_its_folder():
    folders = {cache_of(*words) for words in (("a",), ("a", ""), ("a", "b"), ("ab",), ("b", "a"))}
    assert len(folders) == 5
    assert {folder.parent for folder in folders} == {cache_root() / "shards"}
    assert cache_of("a", "b") == cache_of("a", "b")


def test_absolute_addresses(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert absolute("set/../0.tar") == f"{tmp_path}/0.tar"
    assert absolute("set/") == f"{tmp_path}/set/"
    assert absolute("~/0.tar") == "/home/me/0.tar"
    assert absolute("s3://bucket/../0.tar") == "s3://bucket/../0.tar"


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match=r"cannot be made \(.*\); set SILC_CACHE"):
        made(tmp_path / "file" / "folder")
    with pytest.raises(ValueError, match=r"cannot be written \(.*\); make room there, or set SILC_CACHE"):
        write(tmp_path / "file" / "x", b"")


def test_one_after_the_other(tmp_path):
    """The second holds the file of that name, not the one that the first has removed."""
    lock, said, inside = tmp_path / "lock", [], []
    waits, entered = threading.Event(), threading.Event()

    def second() -> None:
        with only_one(lock, lambda text: (said.append(text), waits.set())):
            with lock.open() as file, pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            inside.append("second")
            entered.set()

    thread = threading.Thread(target=second)
    with only_one(lock, said.append):
        thread.start()
        assert waits.wait(60)
        assert not entered.wait(0.2)
        inside.append("first")
    thread.join(60)
    assert inside == ["first", "second"]
    assert said == [f"another process is making the index, waiting for it ({lock})"]
    assert not lock.exists()


def test_the_lock_is_free_after_an_error(tmp_path):
    with pytest.raises(KeyError), only_one(tmp_path / "lock", print):
        raise KeyError
    with only_one(tmp_path / "lock", pytest.fail):
        pass


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def flock(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(fcntl, "flock", flock)
    with only_one(tmp_path / "lock", pytest.fail):
        assert (tmp_path / "lock").exists()
    assert not (tmp_path / "lock").exists()
