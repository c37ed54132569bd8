"""The index of local shards: bytes by number, for threads and processes; what cannot be used is counted or refused."""

from __future__ import annotations

import os
import pickle
import random
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from silc.data.shards import ShardIndex, Unreadable, index
from silc.errors import StoreFailed
from silc.storage import local
from tests.data.shards.tars import append, pack

COLUMNS = {"image": ["jpg", "png"], "caption": ["txt"]}
PICTURES = {"picture": ["jpg"], "caption": ["txt"]}
Members = list[tuple[str, bytes]]


def write(path: Path, members: Members, form: int = tarfile.USTAR_FORMAT) -> str:
    path.write_bytes(pack(members, form))
    return str(path)


def pairs(keys, mark: str = "") -> Members:
    return [(f"{key}.{ext}", f"{ext} {key}{mark}".encode()) for key in keys for ext in ("jpg", "txt")]


def test_bytes_by_number(tmp_path):
    write(tmp_path / "a.tar", [*pairs(["x", "d/y"]), ("z.PNG", b"only")])
    write(tmp_path / "b.tar", [("k.png", b"png"), ("k.jpg", b"jpg")], tarfile.PAX_FORMAT)
    found = ShardIndex([str(tmp_path)], COLUMNS, required=("image", "caption"))
    assert found.counts == [3, 1]
    assert [found.key(*place) for place in ((0, 0), (0, 1), (0, 2), (1, 0))] == ["a/x", "a/d/y", "a/z", "b/k"]
    assert [found.read(0, 1, column) for column in COLUMNS] == [b"jpg d/y", b"txt d/y"]
    assert [found.read(0, 2, column) for column in COLUMNS] == [b"only", None]
    assert found.read(1, 0, "image") == b"jpg"  # the preferred one
    assert all(type(found.read(0, 0, column)) is bytes for column in COLUMNS)


def test_eight_bytes_a_sample(tmp_path):
    write(tmp_path / "a.tar", pairs(range(1000)))
    found = ShardIndex([str(tmp_path)], COLUMNS, required=())
    assert found.shards[0].starts.nbytes == 8 * 1001
    assert len(pickle.dumps(found)) < 8 * 1001 + 2000
    for sample in range(200):
        found.read(0, sample, "caption")
    assert len(found._last) == index.LAST_SAMPLES


def test_extensions_may_be_given_in_upper_case(write_shards):
    found = ShardIndex(write_shards([2]), {"image": ["JPG"], "caption": ["txt"]}, required=("image",))
    assert found.read(0, 1, "image") is not None


def test_shards_without_what_is_needed(tmp_path):
    write(tmp_path / "a.tar", [("a.jpg", b"j"), ("a.caption", b"t")])
    with pytest.raises(ValueError, match=r"no sample .* has a caption \(txt\); the extensions found are caption, jpg$"):
        ShardIndex([str(tmp_path)], COLUMNS, required=("image", "caption"))
    write(tmp_path / "a.tar", [])
    with pytest.raises(ValueError, match="contain no sample in 1 tar file: they are empty, or"):
        ShardIndex([str(tmp_path)], COLUMNS, required=("image",))
    write(tmp_path / "a.tar", [(f"{n}.e{n:03}", b"x") for n in range(300)])
    with pytest.raises(ValueError, match=r"the extensions found are \.\.\., b, e000, .*e005 and 57 more$") as error:
        ShardIndex(
            [str(tmp_path)] + [write(tmp_path / f"{n}.b", [("a.b", b"")]) for n in range(50)], COLUMNS, ("image",)
        )
    assert len(str(error.value)) < 3000


def test_empty_shards_are_named(tmp_path, caplog):
    write(tmp_path / "full.tar", pairs("a"))
    for n in range(20):
        write(tmp_path / f"none{n:02}.tar", [])
    assert sum(ShardIndex([str(tmp_path)], COLUMNS, required=("image",)).counts) == 1
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("no sample in 20 shards: ")
    assert line.endswith("none07.tar and 12 more")


def test_a_column_behind_many_extensions_is_found(tmp_path):
    write(tmp_path / "a.tar", [*((f"{n}.e{n}", b"x") for n in range(100)), ("b.jpg", b"x")])
    found = ShardIndex([str(tmp_path)], COLUMNS, required=("image",))
    assert found.holds("image")
    assert not found.holds("caption")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("s3://bucket/a.tar", r"^mine: s3://bucket/a\.tar is not on a local disk; copy or mount it"),
        ("{root}/set.manifest", "is a list of shards; name the tar files or their folder"),
        ("{root}/noise.tar", r"shard .*noise\.tar is not a tar file; if it is compressed, unpack it"),
    ],
)
def test_what_is_no_local_tar(tmp_path, name, says):
    (tmp_path / "set.manifest").write_text("")
    (tmp_path / "noise.tar").write_bytes(random.Random(0).randbytes(4096))
    with pytest.raises(ValueError, match=says):
        ShardIndex([name.format(root=tmp_path)], COLUMNS, required=(), what="mine")


MEMBERS = [(f"{i}.{ext}", bytes([i]) * 900) for i in range(4) for ext in ("jpg", "txt")]
STEP = 512 + 1024  # header and padded payload


@given(cut=st.integers(600, len(MEMBERS) * STEP - 1))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_cut_shard_keeps_what_stands_before_the_cut(tmp_path, cut):
    path = tmp_path / "a.tar"
    write(path, MEMBERS)
    os.truncate(path, cut)
    found = ShardIndex([str(path)], COLUMNS, required=())
    whole = [i for i in range(len(MEMBERS)) if i * STEP + 512 + 900 <= cut]  # members whose payload survived
    full = [i // 2 for i in whole if i % 2]
    assert len(full) <= found.counts[0] <= len(full) + 1
    for i in full:
        assert found.key(0, i) == f"a/{i}"
        assert [found.read(0, i, column) for column in COLUMNS] == [MEMBERS[2 * i][1], MEMBERS[2 * i + 1][1]]
    if found.counts[0] > len(full):
        assert found.key(0, len(full)) == f"a/{len(full)}"


@pytest.mark.parametrize("cut", [STEP + 700, STEP * 3 + 100])
def test_damage_is_logged(tmp_path, caplog, cut):
    os.truncate(write(tmp_path / "a.tar", MEMBERS), cut)
    found = ShardIndex([str(tmp_path / "a.tar")], COLUMNS, required=())
    assert "a.tar is damaged (cut" in caplog.text
    assert f"; it has {found.counts[0]} sample" in caplog.text


def test_a_cut_sample_is_met_and_refused(tmp_path):
    os.truncate(write(tmp_path / "a.tar", MEMBERS), STEP * 3 + 600)
    found = ShardIndex([str(tmp_path)], COLUMNS, required=())
    assert found.counts == [2]
    assert found.read(0, 0, "caption") == bytes([0]) * 900
    with pytest.raises(Unreadable, match=r"^cut off by the end of a damaged shard$"):
        found.read(0, 1, "image")
    assert found.key(0, 1) == "a/1"


def test_many_damaged_shards_fill_no_log(tmp_path, caplog):
    for n in range(30):
        os.truncate(write(tmp_path / f"{n:02}.tar", MEMBERS), 5000)
    ShardIndex([str(tmp_path)], COLUMNS, required=())
    assert [record.getMessage() for record in caplog.records][8:] == ["22 shards more like these"]


@pytest.mark.parametrize("field", [slice(0, 512), slice(124, 136)])
def test_a_broken_header_ends_a_shard(tmp_path, caplog, field):
    path = tmp_path / "a.tar"
    data = bytearray(pack(MEMBERS))
    header = data[4 * STEP : 4 * STEP + 512]
    header[field] = b"?" * len(header[field])
    data[4 * STEP : 4 * STEP + 512] = header
    path.write_bytes(data)
    assert ShardIndex([str(path)], COLUMNS, required=()).counts == [2]
    assert "a.tar is damaged (no header at byte 6,144 of 20,480); it has 2 samples" in caplog.text


def test_a_shard_that_changes_is_noticed(tmp_path):
    path = tmp_path / "a.tar"
    write(path, MEMBERS)
    found = ShardIndex([str(path)], COLUMNS, required=())
    path.write_bytes(bytes(1024) + path.read_bytes())
    with pytest.raises(Unreadable, match=r"^no sample where the index points$"):
        found.read(0, 1, "image")
    assert found.key(0, 1) == "a/sample 1"
    found.close()
    path.unlink()
    with pytest.raises(StoreFailed, match=r"a\.tar could not be read .*No such file or directory"):
        found.read(0, 2, "image")


def test_a_shard_that_is_cut_while_it_is_used(tmp_path):
    path = write(tmp_path / "a.tar", MEMBERS)
    found = ShardIndex([path], COLUMNS, required=())
    assert found.read(0, 1, "image") == bytes([1]) * 900
    os.truncate(path, 3 * STEP + 600)
    assert found.read(0, 1, "image") == bytes([1]) * 900
    with pytest.raises(Unreadable, match=r"^cut off by the end of a damaged shard$"):
        found.read(0, 1, "caption")


def test_members_that_stand_apart(tmp_path):
    """`tar cf x.tar *.jpg *.txt`."""
    images, captions = pairs(range(64))[::2], pairs(range(64))[1::2]
    path = write(tmp_path / "x.tar", images + captions)
    with pytest.raises(
        ValueError, match=r"64 of 64 samples cannot be used \(members not adjacent: 64\), all in .*x\.tar"
    ):
        ShardIndex([path], PICTURES, required=("picture", "caption"))


def test_dots_in_names(tmp_path, caplog):
    good = write(tmp_path / "good.tar", pairs(range(100)))
    bad = write(tmp_path / "dotted.tar", pairs(f"IMG.{n:05}" for n in range(1000)))
    with pytest.raises(
        ValueError, match=r"1,000 of 1,100 samples cannot be used \(dot in the name: 1,000\), all in .*dotted"
    ):
        ShardIndex([good, bad], PICTURES, required=("picture", "caption"))
    with pytest.raises(ValueError, match="none is left; pack names with exactly one dot") as error:
        ShardIndex([bad], PICTURES, required=("picture", "caption"))
    assert len(str(error.value)) < 600
    few = write(tmp_path / "few.tar", pairs(f"IMG.{n:05}" for n in range(5)))
    assert ShardIndex([good, few], PICTURES, required=("picture", "caption")).counts == [100, 0]
    assert "5 of 105 samples cannot be used (dot in the name: 5), all in" in caplog.text


def test_keys_that_come_twice(tmp_path, caplog):
    path = tmp_path / "x.tar"
    twice = [member for k in range(40) for member in pairs([k // 2], mark=f" {k}")]  # a counter that was halved
    with pytest.raises(ValueError, match=r"20 of 40 samples cannot be used \(key comes twice: 20\)"):
        ShardIndex([write(path, twice)], PICTURES, required=("picture", "caption"))
    found = ShardIndex([str(path)], PICTURES, required=("picture", "caption"), max_lost=0.5)
    assert [found.read(0, k, "caption") for k in range(3)] == [b"txt 0 1", b"txt 1 3", b"txt 2 5"]
    write(path, pairs(range(40)))
    append(path, pairs([7], mark=" corrected"))
    caplog.clear()
    found = ShardIndex([str(path)], PICTURES, required=("picture", "caption"))
    assert found.counts == [40]
    assert found.read(0, 39, "caption") == b"txt 7 corrected"
    assert "1 of 41 samples cannot be used (key comes twice: 1)" in caplog.text


def test_few_files_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "OPEN_FILES", 3)
    for i in range(8):
        write(tmp_path / f"{i}.tar", [("a.jpg", b"%d" % i)])
    found = ShardIndex([str(tmp_path)], COLUMNS, required=())

    def opened() -> int:
        return sum(
            os.path.realpath(f"/proc/self/fd/{fd}").startswith(str(tmp_path)) for fd in os.listdir("/proc/self/fd")
        )

    assert [found.read(i % 8, 0, "image") for i in range(24)] == [b"%d" % (i % 8) for i in range(24)]
    assert opened() == 3
    found.close()
    assert opened() == 0
    found.read(2, 0, "image")
    assert pickle.loads(pickle.dumps(found)).read(5, 0, "image") == b"5"  # opens files of its own


def test_only_what_is_asked_for_is_read(tmp_path, monkeypatch):
    write(
        tmp_path / "a.tar",
        [(f"{n}.{ext}", b"x" * size) for n in range(9) for ext, size in (("jpg", 10**6), ("txt", 9))],
    )
    found = ShardIndex([str(tmp_path)], COLUMNS, required=())
    reads, pread = [], os.pread
    monkeypatch.setattr(os, "pread", lambda *call: reads.append(call[1]) or pread(*call))
    for sample in range(9):
        assert len(found.read(0, sample, "caption")) == 9
    assert sum(reads) < 10**5
    assert [found.key(0, sample) for sample in range(9)] == [f"a/{sample}" for sample in range(9)]
    before = len(reads)
    assert all(len(found.read(0, sample, "image")) == 10**6 for sample in range(9))
    assert len(reads) == before + 9  # where the members are was known


def test_threads_share_an_index(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "OPEN_FILES", 2)
    for n in range(6):
        write(tmp_path / f"{n}.tar", pairs([f"{n}-{i}" for i in range(20)]))
    found = ShardIndex([str(tmp_path)], COLUMNS, required=())
    wrong = []

    def reader(seed: int) -> None:
        for shard, sample in np.random.default_rng(seed).integers([6, 20], size=(400, 2)).tolist():
            data, key = found.read(shard, sample, "caption"), found.key(shard, sample)
            if (data, key) != (f"txt {shard}-{sample}".encode(), f"{shard}/{shard}-{sample}"):
                wrong.append((shard, sample, data, key))

    threads = [threading.Thread(target=reader, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
