"""The data benchmark: faked sets are what they stand for, and nothing is timed that is wrong."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
import tarfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds
from PIL import Image

from benchmarks.data import bench, fake, pairs, startup, throughput
from benchmarks.data.processes import Ended, Ranks
from benchmarks.data.streams import Spec
from tests.storage.servers import need_s3rver

ROOT = Path(__file__).resolve().parents[2]


def tar_of(folder: Path, count: int = 7) -> Path:
    path = folder / "000000.tar"
    assert pairs.write_tar(path, pairs.pairs(3, count, pairs.pictures(2, 24, 16))) == count
    return path


def test_pairs_are_real_and_each_is_its_own(tmp_path):
    found = list(wds.WebDataset(str(tar_of(tmp_path)), shardshuffle=False))
    assert [sample["__key__"] for sample in found] == [f"{number:09}" for number in range(3, 10)]
    assert len({sample["jpg"] for sample in found}) == len({sample["txt"] for sample in found}) == 7
    for sample in found:
        assert Image.open(io.BytesIO(sample["jpg"])).convert("RGB").size == (24, 16)
    again = tmp_path / "again"
    again.mkdir()
    assert tar_of(again).read_bytes() == (tmp_path / "000000.tar").read_bytes()


def test_the_index_holds_the_first_header_of_each_sample_and_the_end(tmp_path):
    path = tar_of(tmp_path)
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    starts = [member.offset for member in members if member.name.endswith(".jpg")]
    end = members[-1].offset_data + -(-members[-1].size // 512) * 512
    assert np.fromfile(f"{path}.idx", "<u8").tolist() == [*starts, end]


def test_a_word_in_each_caption_is_of_letters_and_its_own():
    words = [pairs.word(number) for number in range(30_000)]
    assert len(set(words)) == 30_000
    assert all(word.isalpha() for word in words)


def test_reading_back_gives_what_was_written(tmp_path):
    written = list(pairs.pairs(3, 7, pairs.pictures(2, 24, 16)))
    assert list(pairs.read_tar(tar_of(tmp_path))) == written


def test_a_faked_set_has_as_many_names_as_wanted_and_few_bytes(tmp_path):
    real = fake.originals(tmp_path / "originals", 2, 5, None)
    made = fake.fake_set(tmp_path / "faked", 101, real)
    assert (made.shards, made.samples) == (101, 505)
    assert [Path(path).name for path in made.paths] == sorted(path.name for path in made.tars.glob("*.tar"))
    assert len({os.stat(path).st_ino for path in made.paths}) == 2
    for path in made.paths[:3]:
        assert np.fromfile(f"{path}.idx", "<u8").size == 6
    with pytest.raises(ValueError, match="120001 shards need 3 originals, 2 are there"):
        fake.fake_set(tmp_path / "more", 2 * fake.LINKS + 1, real)


@pytest.fixture
def small(tmp_path) -> fake.PairSet:
    return fake.real_set(tmp_path / "small", 4, 40, (24, 16), None)


def test_a_rank_is_started_asked_measured_and_ended(small):
    spec = Spec("webdataset", str(small.tars), small.shards, None, batch=8, workers=1)
    with Ranks(sys.executable, [spec]) as processes:
        (said,), peak = processes.first(120)
        assert said["samples"] == 8
        assert 0 < said["imported"] <= said["first"]
        (took,) = processes.ask("take 5")
        assert took["samples"] == 40
        processes.settle()
        memory, before = processes.memory(), processes.used()
        assert 0 < memory.held <= memory.pss
        assert memory.held <= 1.5 * peak
        processes.ask("take 20")
        processes.settle()
        used = processes.used() - before
        assert used.processor > 0
        assert used.read >= small.samples * 500  # a pass of the set, whose pairs take more than that


@pytest.mark.parametrize(
    ("spec", "timeout", "memory", "why"),
    [
        ({"provider": "streaming", "mds": "nowhere"}, 120, 8, "ended: .*streaming"),
        ({}, 0.1, 8, "not finished in 0 s"),
        ({}, 120, 0.01, "more than 0.01 GiB"),
    ],
)
def test_a_stream_that_gives_no_batch_says_why(small, spec, timeout, memory, why):
    whole = replace(Spec("webdataset", str(small.tars), small.shards, None, batch=8), **spec)
    with Ranks(sys.executable, [whole], memory) as processes, pytest.raises(Ended, match=why):
        processes.first(timeout)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda said: said["crcs"].popitem(), "1 did not come"),
        (lambda said: said["twice"].append("000000001"), "1 came again"),
        (lambda said: said["crcs"].update({"000000001": 1}), "1 were changed"),
        (lambda said: said["crcs"].update({"x": 1}), "1 are of another set"),
    ],
)
def test_the_gate_refuses_a_pass_that_is_not_the_set(small, monkeypatch, change, why):
    source = throughput.source_of(small)
    said = {"crcs": dict(source.crcs), "twice": []}
    monkeypatch.setattr(throughput.Ranks, "__init__", lambda self, *_: None)
    monkeypatch.setattr(throughput.Ranks, "close", lambda self: None)
    monkeypatch.setattr(throughput.Ranks, "first", lambda self, timeout: None)
    monkeypatch.setattr(throughput.Ranks, "ask", lambda self, line: [said])
    plan = throughput.Plan({"webdataset": sys.executable})
    assert "each of 160 samples" in throughput.gate("webdataset", sys.executable, small, source, plan)
    change(said)
    with pytest.raises(ValueError, match=why):
        throughput.gate("webdataset", sys.executable, small, source, plan)


def test_the_gate_passes_a_stream_that_is_right(small):
    source = throughput.source_of(small)
    pair = next(pairs.read_tar(Path(small.paths[1])))
    assert source.crcs[pair.key] == zlib.crc32(pair.image + pair.caption)
    plan = throughput.Plan({"webdataset": sys.executable}, batch=8)
    assert "correct" in throughput.gate("webdataset", sys.executable, small, source, plan)


def test_the_slope_is_that_of_the_second_half():
    batches = list(range(500, 5001, 500))
    mib = [100 - 0.02 * min(b, 2500) + 0.003 * b for b in batches]
    assert startup.slope(batches, mib) == pytest.approx(3.0)
    assert np.isnan(startup.slope([500], [1.0]))


def test_what_cannot_be_run_is_refused(capsys):
    for argv, why in (
        (["--providers", "streaming"], "needs --peers"),
        (["--providers", "webdatasets"], "one of silc, webdataset"),
        (["--peers", sys.executable], "No module named 'streaming'"),
        (["--nodes", "1by4"], "invalid literal"),
    ):
        with pytest.raises(SystemExit):
            bench.arguments(argv)
        assert why in capsys.readouterr().err


def test_it_writes_every_row(tmp_path):
    command = ["benchmarks/data_bench.py", "--quick", "--save", str(tmp_path / "results"), "--folder", str(tmp_path)]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("  correct: ") == 2
    found = {}
    for name in ("startup", "flatness", "throughput"):
        with (tmp_path / "results" / f"data_{name}_cpu.csv").open(encoding="utf-8") as file:
            found[name] = list(csv.DictReader(file))
        for column in ("device", "versions", "commit", "date"):
            assert all(row[column] for row in found[name])
        assert {row["provider"] for row in found[name]} == {"silc", "webdataset"}
    for row in found["startup"]:
        assert row["note"] == ""
        assert 0 < float(row["imports"]) <= float(row["seconds"])
        assert float(row["held"]) > 0
    kinds = {(row["provider"], row["kind"], row["workers"]) for row in found["throughput"]}
    assert kinds == {(name, kind, "1") for name in ("silc", "webdataset") for kind in ("bytes", "pixels", "cold")}
    for row in found["throughput"]:
        assert 0 < float(row["slowest"]) <= float(row["per_second"]) <= float(row["fastest"])


def test_from_an_s3_server(tmp_path):
    need_s3rver()
    command = ["benchmarks/data_bench.py", "--remote", "--quick", "--save", str(tmp_path), "--folder", str(tmp_path)]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "data_remote_cpu.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["provider"], row["world"]) for row in rows] == [("silc", "1"), ("silc", "16"), ("webdataset", "1")]
    for row in rows:
        assert float(row["per_second"]) > 0
        assert float(row["served"]) > 0.9  # what was used has left the server
