"""Shards, disks and stores that fail: told, and what is done is kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from silc.data.shards import build as building
from silc.data.shards import indexing
from silc.data.shards.build import build
from silc.errors import RunStopped, StoreFailed
from tests.data.shards.indexed import again, names, write


def test_a_shard_that_is_no_tar_keeps_the_manifest_from_being_written_and_nothing_else(tmp_path):
    write(tmp_path / "set", [2, 3, 4])
    good = (tmp_path / "set" / "00001.tar").read_bytes()
    (tmp_path / "set" / "00001.tar").write_bytes(b"\x1f\x8b" + b"z" * 9000)
    built = again(tmp_path / "set")
    assert built.manifest is None
    ((name, why),) = built.bad
    assert name == "00001.tar"
    assert "if it is compressed, unpack it" in why
    assert "shards.manifest" not in names(tmp_path / "set")
    assert again(tmp_path / "set").how == {"kept": 2}

    built = again(tmp_path / "set", skip_bad=True)
    assert built.manifest is not None
    assert built.manifest.samples.tolist() == [2, 0, 4]
    assert [built.manifest.left_out(i) for i in range(3)] == [False, True, False]
    assert again(tmp_path / "set").manifest is None  # without the option it is bad still

    (tmp_path / "set" / "00001.tar").write_bytes(good)
    assert again(tmp_path / "set").how == {"kept": 2, "read": 1}


def test_a_shard_that_was_left_out_is_bad_still_though_it_has_a_sidecar(tmp_path):
    write(tmp_path / "set", [2, 0])
    again(tmp_path / "set")
    (tmp_path / "set" / "00001.tar").write_bytes(b"z" * 9000)
    assert again(tmp_path / "set", skip_bad=True).manifest is not None
    assert [name for name, _ in again(tmp_path / "set").bad] == ["00001.tar"]


@pytest.mark.parametrize("name", ["a\nb.tar", "a\x7fb.tar"])
def test_a_name_that_cannot_be_listed_is_refused_before_anything_is_read(tmp_path, name):
    write(tmp_path / "set", [2])
    (tmp_path / "set" / "00000.tar").rename(tmp_path / "set" / name)
    with pytest.raises(ValueError, match="cannot be indexed under that name; rename the file"):
        again(tmp_path / "set")
    assert names(tmp_path / "set") == {name}


def test_shards_of_two_stores_are_refused(tmp_path):
    with pytest.raises(ValueError, match="are in different stores; index each store by itself"):
        build([*write(tmp_path / "set", [2]), "s3://bucket/1.tar"], f"{tmp_path}/index/")
    with pytest.raises(ValueError, match="are in different stores"):
        build(["s3://bucket-1/1.tar", "s3://bucket-2/1.tar"], f"{tmp_path}/index/")


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path):
    paths = write(tmp_path / "set", [2])
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ValueError, match=r"cannot be written to \(File exists\); .*--out"):
        build(paths, f"{tmp_path}/file/")


def test_a_damaged_manifest_is_made_anew(tmp_path):
    write(tmp_path / "set", [2, 3])
    again(tmp_path / "set")
    os.truncate(tmp_path / "set" / "shards.manifest", 200)
    built = again(tmp_path / "set")
    assert built.how == {"read": 2}
    assert any("is damaged" in note for note in built.notes)


def test_a_shard_that_changes_meanwhile_is_not_indexed(tmp_path, monkeypatch):
    paths = write(tmp_path / "set", [2])

    def scan(*arguments, scan=indexing.scan, **options):
        os.utime(paths[0])
        return scan(*arguments, **options)

    monkeypatch.setattr(indexing, "scan", scan)
    assert again(tmp_path / "set").bad == [("00000.tar", "it changes while it is read")]


def test_a_store_that_fails_stops_the_build_and_the_next_goes_on(tmp_path, monkeypatch):
    write(tmp_path / "set", [1] * 40)
    monkeypatch.setattr(building, "ALONE", 100)
    seen = []

    def scan(source, size, name, scan=indexing.scan, **options):
        seen.append(name)
        if len(seen) > 10:
            raise StoreFailed(f"{name} could not be read")
        return scan(source, size, name, **options)

    with monkeypatch.context() as patch:
        patch.setattr(indexing, "scan", scan)
        with pytest.raises(RunStopped, match=r"00025\.tar could not be read; what is done is kept: start again"):
            again(tmp_path / "set")
    assert len(seen) == 10 + building.FAILURES
    assert again(tmp_path / "set").how == {"kept": 10, "read": 30}


def test_a_full_disk_stops_the_build(tmp_path, monkeypatch):
    write(tmp_path / "set", [1] * 20)
    monkeypatch.setattr(building, "ALONE", 100)

    def put(address, data):
        raise OSError(28, "No space left on device", address)

    monkeypatch.setattr(indexing, "put", put)
    with pytest.raises(RunStopped, match=r"00015\.tar\.idx: No space left on device"):
        again(tmp_path / "set")


def test_a_disk_that_is_full_for_the_manifest_is_told(tmp_path, monkeypatch):
    write(tmp_path / "set", [1, 2])

    def put(address, data):
        raise OSError(28, "No space left on device", address)

    with monkeypatch.context() as patch:
        patch.setattr(building, "put", put)
        with pytest.raises(
            RunStopped, match=r"shards\.manifest could not be written: No space left on device; make room"
        ):
            again(tmp_path / "set")
    assert again(tmp_path / "set").how == {"kept": 2}


def test_shards_that_may_not_be_read_do_not_stop_the_build(tmp_path, monkeypatch):
    write(tmp_path / "set", [1] * 30)
    monkeypatch.setattr(building, "ALONE", 100)
    monkeypatch.setattr(os, "access", lambda *_: False)

    def stat(address, stat=indexing.stat):
        if int(Path(address).name[:5]) < 20:
            raise StoreFailed(f"{address}: Permission denied")
        return stat(address)

    monkeypatch.setattr(indexing, "stat", stat)
    built = again(tmp_path / "set")
    assert len(built.bad) == 20
    assert built.how == {"read": 10}
