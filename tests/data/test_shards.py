"""The index finds the samples that the webdataset library finds, and their bytes; damage costs only what it touches."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from pathlib import Path

import pytest
import webdataset as wds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from silc.data.shards import ShardIndex, expand_shards
from silc.data.shards import index as shards

COLUMNS = {"image": ["jpg", "png"], "caption": ["txt"]}


def write_tar(path: Path, members: list[tuple[str, bytes]], form: int = tarfile.USTAR_FORMAT) -> None:
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if form == tarfile.PAX_FORMAT:
                info.mtime = 1.5  # needs an extended header
            tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_agrees_with_webdataset(tmp_path, form):
    deep = "folder/" * 12  # beyond the 100 bytes of a name
    longer = deep * 2 if form != tarfile.USTAR_FORMAT else deep
    members = [("__meta__", b"none"), ("README", b"no extension")]
    for i, key in enumerate(["a", "b.c", f"{deep}x", f"{longer}yyyyyyyyyyyyyyyyyyy", "d/e/\u00e9t\u00e9"]):
        stem = key.split(".")[0]
        members += [
            (f"{stem}.JPG", bytes([i]) * 700),
            (f"{stem}.txt", f"words {i}".encode()),
            (f"{stem}.mask.png", b"m"),
        ]
    path = tmp_path / "set.tar"
    write_tar(path, members, form)
    with tarfile.open(path, "a", format=form) as tar:
        folder = tarfile.TarInfo("empty")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    index = ShardIndex([str(path)], {"image": ["jpg"], "caption": ["txt"], "mask": ["mask.png"]}, required=("image",))
    theirs = list(wds.WebDataset(str(path), shardshuffle=False))
    assert len(theirs) == 5
    ours = [
        (index.key(0, i), index.read(0, i, "image"), index.read(0, i, "caption"), index.read(0, i, "mask"))
        for i in range(index.counts[0])
    ]
    assert ours == [(f"set/{s['__key__']}", s["jpg"], s["txt"], s["mask.png"]) for s in theirs]


def test_old_headers_are_read_by_their_checksum(tmp_path):
    path = tmp_path / "old.tar"
    write_tar(path, [("a.jpg", b"1" * 600), ("a.txt", b"one")])
    data = bytearray(path.read_bytes())
    for at in (0, 512 + 1024):
        data[at + 257 : at + 265] = bytes(8)
        data[at + 148 : at + 156] = b" " * 8
        data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    path.write_bytes(data)
    index = ShardIndex([str(path)], COLUMNS, required=())
    assert index.read(0, 0, "image") == b"1" * 600
    assert index.read(0, 0, "caption") == b"one"


def test_the_preferred_image_wins(tmp_path):
    write_tar(tmp_path / "a.tar", [("k.png", b"png"), ("k.jpg", b"jpg"), ("l.png", b"only"), ("l.txt", b"t")])
    index = ShardIndex([str(tmp_path)], COLUMNS, required=())
    assert [index.read(0, i, "image") for i in range(2)] == [b"jpg", b"only"]
    assert index.read(0, 0, "caption") is None


def test_expansion(tmp_path):
    for name in ("x-00", "x-01", "x-02"):
        write_tar(tmp_path / f"{name}.tar", [("a.txt", b"t")])
    (tmp_path / "notes.txt").write_text("no shard")
    paths = [str(tmp_path / f"x-0{i}.tar") for i in range(3)]
    assert expand_shards([f"{tmp_path}/x-{{00..02}}.tar"]) == paths
    assert expand_shards([f"{tmp_path}/x-*.tar"]) == paths
    assert expand_shards([str(tmp_path)]) == paths
    assert expand_shards([paths[2], paths[0]]) == [paths[2], paths[0]]


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("{root}/x-{{00..05}}.tar", r"^data\.shards: no such file or folder '.*x-03\.tar'"),
        ("{root}/nothing-*.tar", "no tar file matches"),
        ("{root}/empty", r"^data\.shards: folder '.*empty' holds no \.tar; pack the files as docs/data\.md shows"),
        ("s3://bucket/x.tar", "not on a local disk"),
        ("pipe:cat x.tar", "not on a local disk"),
    ],
)
def test_shards_that_are_not_there(tmp_path, pattern, says):
    (tmp_path / "empty").mkdir()
    for i in range(3):
        write_tar(tmp_path / f"x-0{i}.tar", [("a.txt", b"t")])
    with pytest.raises(ValueError, match=says):
        expand_shards([pattern.format(root=tmp_path)])


def test_no_shards_at_all():
    with pytest.raises(ValueError, match=r"data\.shards"):
        expand_shards([])


def test_shards_without_what_is_needed(tmp_path):
    write_tar(tmp_path / "a.tar", [("a.jpg", b"j"), ("a.caption", b"t")])
    with pytest.raises(ValueError, match=r"no sample .* has a caption \(txt\); the extensions found are caption, jpg"):
        ShardIndex([str(tmp_path)], COLUMNS, required=("image", "caption"))
    write_tar(tmp_path / "a.tar", [])
    with pytest.raises(ValueError, match="contain no sample"):
        ShardIndex([str(tmp_path)], COLUMNS, required=("image",))


def test_what_is_no_tar(tmp_path):
    (tmp_path / "a.tar").write_bytes(os.urandom(4096))
    with pytest.raises(ValueError, match=r"a\.tar is not a tar file"):
        ShardIndex([str(tmp_path)], COLUMNS, required=())


MEMBERS = [(f"{i}.{ext}", bytes([i]) * 900) for i in range(4) for ext in ("jpg", "txt")]
STEP = 512 + 1024  # header and padded payload


@given(cut=st.integers(600, len(MEMBERS) * STEP - 1))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_cut_shard_keeps_what_stands_before_the_cut(tmp_path, cut):
    path = tmp_path / "a.tar"
    write_tar(path, MEMBERS)
    with open(path, "r+b") as file:
        file.truncate(cut)
    index = ShardIndex([str(path)], COLUMNS, required=())
    whole = [i for i in range(len(MEMBERS)) if i * STEP + 512 + 900 <= cut]  # members whose payload survived
    pairs = [i // 2 for i in whole if i % 2]
    assert len(pairs) <= index.counts[0] <= len(pairs) + 1
    for i in pairs:
        assert index.key(0, i) == f"a/{i}"
        assert [index.read(0, i, column) for column in COLUMNS] == [MEMBERS[2 * i][1], MEMBERS[2 * i + 1][1]]


@pytest.mark.parametrize("cut", [STEP + 700, STEP * 3 + 100])
def test_damage_is_logged(tmp_path, caplog, cut):
    write_tar(tmp_path / "a.tar", MEMBERS)
    with open(tmp_path / "a.tar", "r+b") as file:
        file.truncate(cut)
    ShardIndex([str(tmp_path / "a.tar")], COLUMNS, required=())
    assert "a.tar is damaged (cut" in caplog.text


@pytest.mark.parametrize("field", [slice(0, 512), slice(124, 136)])
def test_a_broken_header_ends_a_shard(tmp_path, caplog, field):
    path = tmp_path / "a.tar"
    write_tar(path, MEMBERS)
    data = bytearray(path.read_bytes())
    header = data[4 * STEP : 4 * STEP + 512]
    header[field] = b"?" * len(header[field])
    data[4 * STEP : 4 * STEP + 512] = header
    path.write_bytes(data)
    assert ShardIndex([str(path)], COLUMNS, required=()).counts == [2]


def test_few_files_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "OPEN_SHARDS", 3)
    for i in range(8):
        write_tar(tmp_path / f"{i}.tar", [("a.jpg", b"%d" % i)])
    index = ShardIndex([str(tmp_path)], COLUMNS, required=())

    def opened() -> int:
        return sum(
            os.path.realpath(f"/proc/self/fd/{fd}").startswith(str(tmp_path)) for fd in os.listdir("/proc/self/fd")
        )

    assert [index.read(i % 8, 0, "image") for i in range(24)] == [b"%d" % (i % 8) for i in range(24)]
    assert opened() == 3
    index.close()
    assert opened() == 0
    index.read(2, 0, "image")
    assert pickle.loads(pickle.dumps(index)).read(5, 0, "image") == b"5"  # opens files of its own


def test_a_shard_named_twice_is_refused(write_shards):
    (folder,) = write_shards([2])
    with pytest.raises(ValueError, match=r"000\.tar is named twice"):
        expand_shards([folder, f"{folder}/000.tar"])


def test_extensions_may_be_given_in_upper_case(write_shards):
    index = ShardIndex(write_shards([2]), {"image": ["JPG"], "caption": ["txt"]}, required=("image",))
    assert index.read(0, 1, "image") is not None
