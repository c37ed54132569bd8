"""Offsets and counts of other programs: used where they are those of the shard, and said where they are not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from silc.data.shards import indexing
from silc.data.shards.build import build
from silc.data.shards.errors import Unreadable
from tests.data.shards import tars
from tests.data.shards.indexed import again, energon, expected, pairs, read, write


def test_offsets_of_megatron_energon_are_taken_over(tmp_path, monkeypatch):
    paths = [Path(path) for path in write(tmp_path / "set", [40, 3])]
    for path in paths:
        Path(f"{path}.idx").write_bytes(energon(path))
    monkeypatch.setattr(indexing, "scan", None)  # no tar is read
    built = again(tmp_path / "set", energon=True)
    assert built.how == {"taken": 2}
    assert built.manifest is not None
    assert built.manifest.extensions == {"jpg": 19, "txt": 19}  # of the samples that were looked at
    assert read(built.manifest) == expected(built.manifest)
    assert again(tmp_path / "set").how == {"kept": 2}
    built = build(list(map(str, paths)), f"{tmp_path}/index/", energon=True)
    assert built.how == {"taken": 2}
    assert built.manifest is not None
    assert read(built.manifest) == expected(built.manifest)


def grown(path: Path) -> None:
    tars.append(path, [("z.jpg", b"j"), ("z.txt", b"t")])


def apart(path: Path) -> None:
    entries = pairs(5)
    path.write_bytes(tars.pack(entries[::2] + entries[1::2]))
    Path(f"{path}.idx").write_bytes(energon(path))


def cut(path: Path) -> None:
    os.truncate(f"{path}.idx", 13)


def absent(path: Path) -> None:
    Path(f"{path}.idx").unlink()


@pytest.mark.parametrize("change", [grown, apart, cut, absent])
def test_offsets_that_do_not_fit_are_not_taken_over(tmp_path, change):
    (path,) = map(Path, write(tmp_path / "set", [5]))
    Path(f"{path}.idx").write_bytes(energon(path))
    change(path)
    built = again(tmp_path / "set", energon=True)
    assert built.how == {"read": 1}
    assert built.manifest is not None
    assert read(built.manifest) == expected(built.manifest)


def test_counts_of_other_programs_are_compared(tmp_path):
    write(tmp_path / "set", [5, 6, 7])
    for number, count in enumerate((5, 7, 7)):
        text = json.dumps({"count": 10, "successes": count, "status_dict": {"success": count}})
        (tmp_path / "set" / f"0000{number}_stats.json").write_text(text)
    built = again(tmp_path / "set")
    assert built.notes == ["00001.tar has 7 samples by _stats.json, 6 were found"]
    counts = {f"{tmp_path}/set/00002.tar": (8, "sizes.json")}
    built = again(tmp_path / "set", counts=counts, force=True)
    assert built.notes[1] == "00002.tar has 8 samples by sizes.json, 7 were found"


def test_compare_tells_a_sample_that_is_not_there():
    data = tars.pack(pairs(30))
    scan = indexing.scan(lambda a, b: data[a:b], len(data), "x")
    members = indexing.compare(lambda a, b: data[a:b], scan.starts, None, None)
    assert members is not None
    assert len(members) == indexing.PICKS
    wrong = scan.starts.copy()
    wrong[29] += 512
    assert indexing.compare(lambda a, b: data[a:b], wrong, None, None) is None
    with pytest.raises(Unreadable):
        indexing.parse(data[int(wrong[29]) : int(wrong[30])])
