"""`silc shards pack`: what it prints, how it ends, and that a run and an evaluation take what it makes."""

from __future__ import annotations

import io
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from silc.commands.main import run
from silc.commands.shards.pack import _bytes
from silc.config import Config, DataConfig, TrainConfig, ViewsConfig
from silc.data.layouts import open_data_set
from silc.data.loader import build_loader


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SILC_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def pack(capsys):
    """pack(words): exit status, lines on stdout, lines on stderr."""

    def call(*words: object) -> tuple[int, list[str], list[str]]:
        try:
            status = run(["shards", "pack", *map(str, words)])
        except SystemExit as ended:
            status = ended.code
        printed = capsys.readouterr()
        return status, printed.out.splitlines(), printed.err.splitlines()

    return call


def image(color: int, kind: str = "jpeg") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((40, 60, 3), color, np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def pictures(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:03}.jpg").write_bytes(image(number))
        (folder / f"{number:03}.txt").write_text(f"grey {number}\nlevel {number}")
    return folder


def test_a_folder_and_the_first_batches_of_a_run(tmp_path, pack, monkeypatch):
    pictures(tmp_path / "in", 40)
    monkeypatch.chdir(tmp_path)
    status, lines, errors = pack("in", "--out", "shards", "--size", 32)
    assert (status, errors) == (0, [])
    assert lines[0] == "in is a folder of images with .txt files beside them"
    assert re.fullmatch(
        r"40 samples with 80 captions \(40 jpg\) in 1 shard, [\d,]+ bytes, with their index in shards", lines[1]
    )
    assert lines[2:] == ["next: silc train 'data.shards=[shards]'"]
    config = Config(
        data=DataConfig(shards=["shards"], workers=0, shuffle_block=16),
        views=ViewsConfig(n_local=2, global_size=16, local_size=8),
        train=TrainConfig(global_batch=20),
    )
    loader = iter(build_loader(config, rank=0, world=1))
    keys = [key for _ in range(2) for key in next(loader).keys]
    assert len(set(keys)) == 40
    assert pack("in", "--out", "shards", "--size", 32)[1][-len(lines) :] == lines


def test_a_dry_run_shows_samples_and_writes_nothing(tmp_path, pack):
    pictures(tmp_path / "in", 5)
    (tmp_path / "in" / "001.txt").write_text(" \u200b")
    status, lines, errors = pack(tmp_path / "in", "--out", tmp_path / "out", "--dry-run")
    assert (status, errors) == (0, [])
    size = len(image(0))
    assert lines[1:] == [
        f"000.jpg: jpg, {size} bytes, 'grey 0' and 1 other",
        "001.jpg: left out, empty caption",
        f"002.jpg: jpg, {size} bytes, 'grey 2' and 1 other",
        "5 rows; nothing was written",
    ]
    assert not (tmp_path / "out").exists()


def test_what_is_left_out_is_said(tmp_path, pack):
    pictures(tmp_path / "in", 30)
    (tmp_path / "in" / "007.txt").unlink()
    (tmp_path / "in" / "008.jpg").write_bytes(b"x")
    status, lines, _ = pack(tmp_path / "in", "--out", tmp_path / "out")
    assert status == 0
    assert lines[2] == (
        "left out 2 rows: 1 no caption beside (007.jpg), 1 not an image of a known format (008.jpg); all are in "
        f"{tmp_path}/out/skipped.jsonl"
    )


def test_too_much_that_is_left_out_ends_with_1(tmp_path, pack):
    pictures(tmp_path / "in", 10)
    for number in (3, 4):
        (tmp_path / "in" / f"00{number}.jpg").write_bytes(b"x")
    status, _, errors = pack(tmp_path / "in", "--out", tmp_path / "out")
    assert status == 1
    assert errors == [
        "silc shards pack: 2 of 10 rows cannot be used, more than --max-skipped 0.1 allows: 2 not an image of a known "
        f"format ({errors[0].rpartition('format (')[2].partition(')')[0]}); see {tmp_path}/out/skipped.jsonl, and "
        "start again when that is mended"
    ]
    assert pack(tmp_path / "in", "--out", tmp_path / "out", "--max-skipped", 0.2)[0] == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--size", "8"], "argument --size: '8': give a whole number, at least 16"),
        (["--quality", "101"], "argument --quality: '101': give a whole number, at least 1, at most 100"),
        (["--shard-size", "1 parsec"], "argument --shard-size: '1 parsec': give a number of bytes, such as 500MB"),
        (["--max-skipped", "2"], "argument --max-skipped: '2': give a share from 0 to 1"),
        (["--jobs", "0"], "argument --jobs: '0': give a number of processes, at least 1"),
        (["--template", "a photo"], "--template 'a photo': it must contain {} once"),
        (["--image-column", "x"], "--image-column means nothing here, as the source is a folder of images"),
        (["--out", "{in}"], "is the source; give a folder of its own"),
        (["--captions", "json:text"], "no caption beside, as in 000.jpg"),
    ],
)
def test_mistakes_are_one_line_and_status_2(tmp_path, pack, words, says):
    source = pictures(tmp_path / "in", 3)
    words = [word.replace("{in}", str(source)) for word in words]
    status, _, errors = pack(source, "--out", tmp_path / "out", *words)
    assert (status, len(errors)) == (2, 1)
    assert errors[0].startswith("silc shards pack: ")
    assert says in errors[0]
    assert not (tmp_path / "out").exists()


def test_a_missing_source_and_a_full_disk(tmp_path, pack, monkeypatch):
    assert pack(tmp_path / "no", "--out", tmp_path / "out")[0] == 2
    source = pictures(tmp_path / "in", 3)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("silc.data.packing.tars.os.fsync", full)
    status, _, errors = pack(source, "--out", tmp_path / "out")
    assert status == 1
    assert "No space left on device; make room on its disk; the same command goes on" in errors[0]
    monkeypatch.undo()
    monkeypatch.setenv("SILC_CACHE", str(tmp_path / "cache"))
    assert pack(source, "--out", tmp_path / "out")[0] == 0


def test_class_folders_can_be_evaluated_on(tmp_path, pack):
    for split in ("train", "val"):
        for number, name in enumerate(["polar_bear", "zebra"]):
            (tmp_path / "in" / split / name).mkdir(parents=True)
            for each in range(3):
                (tmp_path / "in" / split / name / f"{each}.png").write_bytes(image(number * 100 + each, "png"))
    status, lines, _ = pack(tmp_path / "in" / "train", "--out", tmp_path / "set" / "train")
    assert status == 0
    assert lines[1] == "  captions as 'a photo of a polar bear'"
    assert lines[3].startswith("names of the 2 classes in ")
    assert pack(tmp_path / "in" / "val", "--out", tmp_path / "set" / "test")[0] == 0
    found = open_data_set(f"wds:{tmp_path}/set", DataConfig(), None)
    assert found.classes == ("polar bear", "zebra")
    labels = {(found.test.label(i), int(found.test.image(i).float().mean()) // 100) for i in range(6)}
    assert labels == {(0, 0), (1, 1)}
    assert found.train is not None


def test_a_table_with_columns_said(tmp_path, pack):
    pictures(tmp_path / "in", 3)
    (tmp_path / "in" / "t.csv").write_text("id,File,TEXT\n1,000.jpg,a dog\n2,001.jpg,a cat\n")
    status, lines, _ = pack(tmp_path / "in" / "t.csv", "--out", tmp_path / "out")
    assert status == 0
    assert lines[:2] == [
        f"{tmp_path}/in/t.csv is a CSV file",
        "  images from column 'File', captions from column 'TEXT'",
    ]


def test_formats_that_a_run_reads_need_no_word(tmp_path, pack):
    source = pictures(tmp_path / "in", 3)
    for kind in ("png", "gif", "bmp", "tiff", "webp", "avif"):
        (source / f"x{kind}.{kind}").write_bytes(image(7, kind))
        (source / f"x{kind}.txt").write_text("x")
    status, lines, _ = pack(source, "--out", tmp_path / "out")
    assert status == 0
    assert lines[-1] == f"next: silc train 'data.shards=[{tmp_path}/out]'"


def test_the_optional_libraries_are_loaded_only_where_they_are_needed(tmp_path):
    source = pictures(tmp_path / "in", 3)
    code = (
        "import sys; from silc.commands.main import run; "
        f"assert run(['shards', 'pack', {str(source)!r}, '--out', {str(tmp_path / 'out')!r}]) == 0; "
        "assert not {'pyarrow', 'datasets'} & set(sys.modules)"
    )
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0


def test_numbers_of_bytes():
    assert [_bytes(text) for text in ("1GB", "500 mb", "7", "2k", "1TB")] == [10**9, 5 * 10**8, 7, 2000, 10**12]
