"""Data sets of `save_to_disk`: images as their bytes, splits, rows by number; a stranger's folder."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import datasets
import pytest

from silc.data.packing.find import find
from silc.data.packing.options import SourceOptions
from silc.data.packing.paths import check_beginning
from tests.data.packing.packed import by_source, contents, image, packed, samples


def saved(folder: Path, count: int = 25, **columns) -> datasets.Dataset:
    rows = {
        "image": [{"bytes": image(n, "png"), "path": None} for n in range(count)],
        "text": [[f"picture {n}", f"number {n}"] for n in range(count)],
        **columns,
    }
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Sequence(datasets.Value("string"))})
    data = datasets.Dataset.from_dict(rows, features=None if columns else features)
    data.save_to_disk(folder)
    return data


def test_a_data_set(tmp_path):
    data = saved(tmp_path / "in")
    finished = packed(tmp_path / "in", tmp_path / "out", samples=10)
    assert (finished.samples, finished.captions, finished.kinds, len(finished.shards)) == (25, 50, {"png": 25}, 3)
    found = by_source(tmp_path / "out")
    for number in range(25):
        assert found[str(number)]["png"] == image(number, "png")
        assert found[str(number)]["txt"].decode().split("\n") == data[number]["text"]
    order = [sample["json"] for sample in samples(tmp_path / "out")]
    assert order != sorted(order)
    packed(tmp_path / "in", tmp_path / "two", samples=10, jobs=2)
    assert contents(tmp_path / "two") == contents(tmp_path / "out")


def test_splits(tmp_path):
    both = {name: datasets.Dataset.from_dict({"img": [image(n)], "caption": [name]}) for n, name in enumerate("ab")}
    datasets.DatasetDict(both).save_to_disk(tmp_path / "in")
    with pytest.raises(ValueError, match="the splits a, b; name one with --split"):
        find(str(tmp_path / "in"), SourceOptions())
    with pytest.raises(ValueError, match="give one of a, b; pack the others"):
        find(str(tmp_path / "in"), SourceOptions(split="all"))
    packed(tmp_path / "in", tmp_path / "out", reading={"split": "b"})
    assert [(sample["jpg"], sample["txt"]) for sample in samples(tmp_path / "out")] == [(image(1), b"b")]


def test_captions_that_are_json_are_refused(tmp_path):
    rows = {"image": [image(n) for n in range(4)], "caption": ['{"caption": "a dog"}'] * 4}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "in")
    with pytest.raises(ValueError, match=r"caption is JSON, as in 0: .*name a column of plain text"):
        check_beginning(find(str(tmp_path / "in"), SourceOptions()))


def test_files_that_were_written_again_are_another_source(tmp_path):
    saved(tmp_path / "in", 4)
    packed(tmp_path / "in", tmp_path / "out")
    (data,) = (tmp_path / "in").glob("*.arrow")
    os.utime(data, (5, 5))
    with pytest.raises(ValueError, match=r"was begun otherwise \(the source has changed\)"):
        packed(tmp_path / "in", tmp_path / "out")


def test_a_selection_of_a_data_set(tmp_path):
    rows = {"image": [image(n) for n in range(9)], "caption": [str(n) for n in range(9)]}
    datasets.Dataset.from_dict(rows).select([7, 2, 5]).save_to_disk(tmp_path / "in")
    packed(tmp_path / "in", tmp_path / "out", seed=None)
    assert [sample["txt"] for sample in samples(tmp_path / "out")] == [b"7", b"2", b"5"]


@pytest.mark.parametrize("splits", [["../x"], ["/etc"], [], [7], "train", [".."]])
def test_splits_that_lead_elsewhere_are_refused(tmp_path, splits):
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": splits}))
    with pytest.raises(ValueError, match="names no splits"):
        find(str(tmp_path), SourceOptions())


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"_data_files": [{"filename": "/dev/zero"}]}', "[" * 100_000])
def test_a_damaged_folder_is_refused_and_runs_nothing(tmp_path, text):
    saved(tmp_path / "in", 2)
    (tmp_path / "in" / "state.json").write_text(text)
    (tmp_path / "in" / "in.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ValueError, match="is no data set that can be read"):
        find(str(tmp_path / "in"), SourceOptions())
    assert not (tmp_path / "ran").exists()


def test_a_pipe_in_the_folder_is_not_waited_for(tmp_path):
    saved(tmp_path / "in", 2)
    (data,) = (tmp_path / "in").glob("*.arrow")
    data.unlink()
    os.mkfifo(data)
    with pytest.raises(ValueError, match="a pipe, socket or device"):
        find(str(tmp_path / "in"), SourceOptions())


def test_without_the_library_it_says_what_to_install(tmp_path, monkeypatch):
    saved(tmp_path / "in", 2)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"pip install 'silc\[pack\]'"):
        find(str(tmp_path / "in"), SourceOptions())
