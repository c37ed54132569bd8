"""Parquet: paths or images in it, of one file or a folder of splits, in any number of row groups; damage."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from silc.data.packing import parquet
from silc.data.packing.find import find
from silc.data.packing.options import SourceOptions
from silc.data.packing.paths import OUTSIDE, check_beginning
from silc.data.packing.rows import JSON
from tests.data.packing.packed import by_source, contents, image, packed, samples, skipped


def write(path: Path, numbers: range, group: int = 4, kind: str = "struct", **columns) -> Path:
    """A file of images and captions, `group` rows to a row group."""
    data = [image(n) for n in numbers]
    held = {
        "struct": [{"bytes": each, "path": None} for each in data],
        "bytes": data,
        "path": [f"{n}.jpg" for n in numbers],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table({"image": held[kind], "caption": [f"picture {n}" for n in numbers], **columns})
    pyarrow.parquet.write_table(table, path, row_group_size=group)
    return path


def found(out: Path) -> dict[bytes, bytes]:
    return {sample["jpg"]: sample["txt"] for sample in samples(out)}


def wanted(count: int) -> dict[bytes, bytes]:
    return {image(n): f"picture {n}".encode() for n in range(count)}


@pytest.mark.parametrize("kind", ["struct", "bytes"])
def test_images_in_the_file(tmp_path, kind):
    path = write(tmp_path / "a.parquet", range(11), kind=kind)
    assert packed(path, tmp_path / "out", samples=4).samples == 11
    assert found(tmp_path / "out") == wanted(11)
    assert by_source(tmp_path / "out")["a.parquet:7"]["jpg"] == image(7)


def test_paths_in_the_file(tmp_path):
    path = write(tmp_path / "a.parquet", range(3), kind="path")
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(image(number))
    packed(path, tmp_path / "out")
    assert found(tmp_path / "out") == wanted(3)


def test_a_folder_as_on_the_hub(tmp_path):
    write(tmp_path / "in/data/train-00000-of-00002.parquet", range(5))
    write(tmp_path / "in/data/train-00001-of-00002.parquet", range(5, 9), group=100)
    write(tmp_path / "in/data/validation-00000-of-00001.parquet", range(90, 95))
    (tmp_path / "in/README.md").write_text("x")
    with pytest.raises(ValueError, match="the splits train, validation; name one with --split"):
        find(str(tmp_path / "in"), SourceOptions())
    source = find(str(tmp_path / "in"), SourceOptions(split="train"))
    assert source.title == "2 Parquet files"
    packed(tmp_path / "in", tmp_path / "out", reading={"split": "train"})
    assert found(tmp_path / "out") == wanted(9)


def test_row_groups_are_mixed_and_their_rows_stay_in_order(tmp_path):
    path = write(tmp_path / "a.parquet", range(60), group=5)
    packed(path, tmp_path / "mixed", samples=20)
    packed(path, tmp_path / "plain", samples=20, seed=None)
    assert [s["txt"] for s in samples(tmp_path / "plain")] == [f"picture {n}".encode() for n in range(60)]
    numbers = [int(s["txt"].split()[1]) for s in samples(tmp_path / "mixed")]
    groups = np.array(numbers).reshape(12, 5)
    assert (np.diff(groups, axis=1) == 1).all()
    assert sorted(numbers) == list(range(60)) != numbers
    again = packed(path, tmp_path / "again", samples=20, jobs=2)
    assert len(again.shards) == 3
    assert contents(tmp_path / "again") == contents(tmp_path / "mixed")


def test_a_large_row_group_becomes_several_shards(tmp_path):
    path = write(tmp_path / "a.parquet", range(23), group=50)
    finished = packed(path, tmp_path / "out", samples=10)
    assert [samples for _, samples, _ in finished.shards] == [10, 10, 3]
    assert packed(path, tmp_path / "few", samples=10, limit=12).samples == 12


@pytest.mark.parametrize("several", [False, True])
def test_captions_that_are_json_are_refused_or_counted(tmp_path, several):
    text = '{"caption": "a dog"}'
    columns = {"image": [image(n) for n in range(5)], "caption": [[text] if several else text for _ in range(5)]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"caption is JSON, as in a.parquet:0: .*name a column of plain text"):
        check_beginning(find(str(tmp_path / "a.parquet"), SourceOptions()))
    columns["caption"][3] = ["a cat"] if several else "a cat"
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    finished = packed(tmp_path / "a.parquet", tmp_path / "out", max_skipped=0.9)
    assert (found(tmp_path / "out"), finished.skipped) == ({image(3): b"a cat"}, {JSON: 4})


@pytest.mark.parametrize("struct", [False, True])
def test_a_value_that_a_few_bytes_stand_for_is_in_memory_once(tmp_path, struct):
    large = bytes(24 << 20)
    table = pyarrow.table({"image": [{"bytes": large, "path": None} if struct else large], "caption": ["x"]})
    pyarrow.parquet.write_table(table.take([0] * 16), tmp_path / "a.parquet", compression="zstd")
    assert (tmp_path / "a.parquet").stat().st_size < 100_000
    del table
    held = find(str(tmp_path / "a.parquet"), SourceOptions())
    pool = pyarrow.default_memory_pool()
    most, count = 0, 0
    for row in held.rows():
        most, count = max(most, pool.bytes_allocated()), count + (row.image == large)
    assert count == 16
    assert most < 5 * len(large)


@pytest.mark.parametrize("struct", [False, True])
def test_an_image_of_too_many_bytes_is_not_copied(tmp_path, monkeypatch, struct):
    monkeypatch.setattr(parquet, "MAX_FILE", 2000)
    data = [image(0), image(1) + bytes(2000)]
    rows = [{"bytes": each, "path": "x"} for each in data] if struct else data
    pyarrow.parquet.write_table(pyarrow.table({"image": rows, "caption": ["a", "b"]}), tmp_path / "a.parquet")
    finished = packed(tmp_path / "a.parquet", tmp_path / "out", max_skipped=0.5)
    assert (found(tmp_path / "out"), finished.skipped) == ({image(0): b"a"}, {parquet.LARGE: 1})


def test_a_file_that_was_written_again_is_another_source(tmp_path):
    path = write(tmp_path / "a.parquet", range(6))
    packed(path, tmp_path / "out")
    os.utime(path, (5, 5))
    with pytest.raises(ValueError, match=r"was begun otherwise \(the source has changed\)"):
        packed(path, tmp_path / "out")


def test_several_captions_and_none(tmp_path):
    lists = [["one", "two\nlines"], [], None, ["four"]]
    table = pyarrow.table({"image": [image(n) for n in range(4)], "captions": lists})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    packed(tmp_path / "a.parquet", tmp_path / "out", max_skipped=0.5)
    assert found(tmp_path / "out") == {image(0): b"one\ntwo lines", image(3): b"four"}
    assert set(skipped(tmp_path / "out").values()) == {"empty caption"}


def test_rows_by_number_are_the_rows(tmp_path):
    write(tmp_path / "in/a.parquet", range(7), group=3)
    write(tmp_path / "in/b.parquet", range(7, 12), group=2)
    held = find(str(tmp_path / "in"), SourceOptions())
    assert held.blocks().tolist() == [0, 3, 6, 7, 9, 11, 12]
    rng = np.random.default_rng(0)
    for _ in range(20):
        numbers = rng.integers(0, 12, rng.integers(1, 9))
        assert [row.captions for row in held.read(numbers)] == [[f"picture {n}"] for n in numbers]


def test_paths_of_hugging_faces_images(tmp_path):
    (tmp_path / "1.jpg").write_bytes(image(1))
    structs = [{"bytes": None, "path": "1.jpg"}, {"bytes": None, "path": "/etc/passwd"}, {"bytes": None, "path": None}]
    table = pyarrow.table({"image": structs, "caption": ["picture 1", "b", "c"]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    packed(tmp_path / "a.parquet", tmp_path / "out", max_skipped=0.7)
    assert found(tmp_path / "out") == {image(1): b"picture 1"}
    assert sorted(skipped(tmp_path / "out").values()) == ["no image named", OUTSIDE]


def test_a_damaged_row_group_is_counted(tmp_path):
    path = write(tmp_path / "a.parquet", range(12), group=4)
    data = bytearray(path.read_bytes())
    start = pyarrow.parquet.ParquetFile(path).metadata.row_group(1).column(0)
    data[start.data_page_offset : start.data_page_offset + 64] = b"\xff" * 64
    path.write_bytes(data)
    packed(path, tmp_path / "out", max_skipped=0.5)
    assert set(skipped(tmp_path / "out")) == {f"a.parquet:{n}" for n in range(4, 8)}
    assert set(skipped(tmp_path / "out").values()) == {parquet.DAMAGED}
    assert len(found(tmp_path / "out")) == 8


def test_a_damaged_table_of_paths_is_named(tmp_path):
    path = write(tmp_path / "a.parquet", range(12), group=4, kind="path")
    data = bytearray(path.read_bytes())
    start = pyarrow.parquet.ParquetFile(path).metadata.row_group(1).column(0).dictionary_page_offset
    data[start : start + 20] = b"\xff" * 20
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a.parquet is damaged behind row 0: "):
        list(find(str(path), SourceOptions()).rows())


def test_what_is_no_parquet_file_is_refused(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + b"x" * 100)
    with pytest.raises(ValueError, match="is not a Parquet file that can be read"):
        find(str(tmp_path / "a.parquet"), SourceOptions())
    write(tmp_path / "in/a.parquet", range(2))
    write(tmp_path / "in/b.parquet", range(2), more=[1, 2])
    with pytest.raises(ValueError, match=r"a.parquet and b.parquet have other columns; pack them one by one"):
        find(str(tmp_path / "in"), SourceOptions())


def test_without_pyarrow_it_says_what_to_install(tmp_path, monkeypatch):
    write(tmp_path / "a.parquet", range(2))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match=r"pip install 'silc\[pack\]'"):
        find(str(tmp_path / "a.parquet"), SourceOptions())
