"""Packing: the same bytes in any way, whole or absent, going on after a kill, counting what is left out."""

from __future__ import annotations

import json
import os
import shutil
from datetime import datetime
from pathlib import Path

import pytest
import webdataset

from silc.config import DataConfig
from silc.data.packing import pack as packing
from silc.data.packing.pack import UNITS
from silc.data.packing.rows import MISSING, NO_CAPTION
from silc.data.packing.sample import NO_IMAGE
from silc.data.shards.prepare import prepare
from silc.errors import RunStopped
from tests.data.packing.packed import by_source, captioned, captions, contents, image, packed, samples, skipped


def table(folder: Path, count: int, missing: int = 0) -> Path:
    """A CSV of `count` rows, of whose images the first `missing` are not there."""
    captioned(folder / "x", count)
    for number in range(missing):
        (folder / "x" / f"{number // 10:03}" / f"{number:05}.jpg").unlink()
    lines = [f"x/{n // 10:03}/{n:05}.jpg,picture {n}" for n in range(count)]
    (folder / "t.csv").write_text("\n".join(["image,caption", *lines]))
    return folder / "t.csv"


def test_webdataset_reads_what_is_written(tmp_path):
    source = captioned(tmp_path / "in", 45)
    packed(source, tmp_path / "out", samples=20)
    urls = [str(path) for path in sorted((tmp_path / "out").glob("*.tar"))]
    assert [Path(url).name for url in urls] == ["00000.tar", "00001.tar", "00002.tar"]
    read = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in read] == [f"{n:09d}" for n in range(45)]
    for sample in read:
        number = int(sample["txt"].split()[1])
        assert sample["jpg"] == image(number)
        assert json.loads(sample["json"]) == {"source": f"{number // 10:03}/{number:05}.jpg"}


def test_the_bytes_do_not_depend_on_processes_or_times(tmp_path):
    source = captioned(tmp_path / "in", 60)
    packed(source, tmp_path / "one", samples=8)
    for path in source.rglob("*"):
        os.utime(path, (5, 5))
    packed(source, tmp_path / "three", samples=8, jobs=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "three")
    assert len(contents(tmp_path / "one")) == 24
    packed(source, tmp_path / "seed", samples=8, seed=1)
    assert contents(tmp_path / "seed") != contents(tmp_path / "one")
    packed(source, tmp_path / "plain", samples=8, seed=None)
    assert list(captions(tmp_path / "plain")) == sorted(by_source(tmp_path / "one"))


def test_a_shard_has_at_most_so_many_bytes(tmp_path):
    source = captioned(tmp_path / "in", 30)
    (source / "big.jpg").write_bytes(image(99, size=(400, 300)))
    (source / "big.txt").write_text("big")
    finished = packed(source, tmp_path / "out", size=30_000)
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "out").glob("*.tar")}
    assert {name: size for name, _, size in finished.shards} == sizes
    large = [name for name, size in sizes.items() if size > 30_000]
    assert len(large) == 1  # a sample by itself
    assert sum(s["shard"].decode() == large[0] for s in samples(tmp_path / "out")) == 1
    assert len(sizes) > 2
    assert len(by_source(tmp_path / "out")) == 31
    again = packed(source, tmp_path / "two", size=30_000, jobs=2)
    assert again.shards == finished.shards


def test_the_index_is_the_one_that_a_run_wants(tmp_path):
    packed(captioned(tmp_path / "in", 25), tmp_path / "out", samples=10)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    said: list[str] = []
    keys = DataConfig().image_keys
    manifest = prepare([str(tmp_path / "out")], caption="txt", images=keys, max_lost=0.0, hashes=True, say=said.append)
    assert (manifest.samples.tolist(), said) == ([10, 10, 5], [])
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


def test_limit(tmp_path):
    source = captioned(tmp_path / "in", 30)
    packed(source, tmp_path / "all")
    assert packed(source, tmp_path / "some", limit=7).samples == 7
    assert list(captions(tmp_path / "some")) == list(captions(tmp_path / "all"))[:7]


def test_a_limit_counts_what_it_takes(tmp_path):
    source = captioned(tmp_path / "in", 40)
    for number in (3, 33):
        (source / f"{number // 10:03}" / f"{number:05}.txt").unlink()
    finished = packed(source, tmp_path / "out", limit=5)  # 2 of 40 are no reason to stop
    assert (finished.samples, finished.skipped) == (5, {NO_CAPTION: 2})
    for number in range(4, 10):
        (source / "000" / f"{number:05}.txt").unlink()
    with pytest.raises(RunStopped, match="8 of 40 rows cannot be used"):
        packed(source, tmp_path / "many", limit=5)
    with pytest.raises(RunStopped, match="1 of 5 rows cannot be used"):
        packed(table(tmp_path / "t", 5, missing=1), tmp_path / "taken", limit=5)


def test_content_that_is_no_image_is_counted(tmp_path):
    source = captioned(tmp_path / "in", 30)
    (source / "000" / "00003.jpg").write_bytes(b"<html>not found</html>")
    (source / "000" / "00004.jpg").write_bytes(b"")
    finished = packed(source, tmp_path / "out")
    assert finished.skipped == {NO_IMAGE: 2}
    assert finished.examples == {NO_IMAGE: sorted(skipped(tmp_path / "out"), key=finished.examples[NO_IMAGE].index)}


def test_what_cannot_be_decoded_is_found_by_verify_alone(tmp_path):
    source = captioned(tmp_path / "in", 30)
    (source / "000" / "00003.jpg").write_bytes(image(3)[:300])
    assert packed(source, tmp_path / "plain").samples == 30
    assert packed(source, tmp_path / "out", making={"verify": True}).skipped == {"undecodable image": 1}


def test_too_many_skipped_rows_stop_it_as_soon_as_that_is_certain(tmp_path, monkeypatch):
    path = table(tmp_path, 100, missing=30)
    units: list[int] = []
    work = packing.pack_units
    monkeypatch.setattr(
        packing, "pack_units", lambda jobs, store: (units.append(jobs[0].unit.number), work(jobs, store))[1]
    )
    with pytest.raises(RunStopped, match=rf"of 100 rows cannot be used, more than --max-skipped 0.1 .*{MISSING} \("):
        packed(path, tmp_path / "out", samples=5, seed=None)
    assert units == [0, 1, 2]
    assert not list((tmp_path / "out").glob("*.tar"))
    assert len(skipped(tmp_path / "out")) == 15
    captioned(tmp_path / "x", 30)  # now they are there
    finished = packed(path, tmp_path / "out", samples=5, seed=None)
    assert (finished.samples, finished.skipped) == (100, {})
    assert not (tmp_path / "out" / "skipped.jsonl").exists()


def test_captions_that_were_missing_can_be_added(tmp_path):
    source = captioned(tmp_path / "in", 20)
    texts = {path: path.read_text() for path in source.rglob("*.txt")}
    for path in sorted(texts)[:5]:
        path.unlink()
    with pytest.raises(RunStopped, match="5 of 20 rows cannot be used"):
        packed(source, tmp_path / "out")
    for path, text in texts.items():
        path.write_text(text)
    assert packed(source, tmp_path / "out").samples == 20


def test_the_folder_tells_no_ones_path(tmp_path):
    packed(captioned(tmp_path / "in", 3), tmp_path / "out")
    assert not [path for path in (tmp_path / "out").iterdir() if str(tmp_path).encode() in path.read_bytes()]
    shutil.move(tmp_path / "in", tmp_path / "moved" / "in")
    shutil.move(tmp_path / "out", tmp_path / "moved" / "out")
    assert packed(tmp_path / "moved" / "in", tmp_path / "moved" / "out").samples == 3


def test_more_may_be_skipped_where_that_is_wanted(tmp_path):
    path = table(tmp_path, 100, missing=30)
    with pytest.raises(RunStopped):
        packed(path, tmp_path / "out", samples=5)
    finished = packed(path, tmp_path / "out", samples=5, max_skipped=0.5)
    assert (finished.samples, finished.skipped) == (70, {MISSING: 30})
    assert len(skipped(tmp_path / "out")) == 30
    assert all(": " not in name for name in skipped(tmp_path / "out"))


def test_no_sample_at_all(tmp_path):
    path = table(tmp_path, 5, missing=5)
    with pytest.raises(RunStopped, match="no sample could be made of 5 rows: 5 image file missing"):
        packed(path, tmp_path / "out", max_skipped=1.0)


def test_another_plan_is_refused_with_the_way_out(tmp_path):
    source = captioned(tmp_path / "in", 12)
    packed(source, tmp_path / "out")
    before = contents(tmp_path / "out")
    for options, says in (
        ({"making": {"size": 8}}, "--size was not given, is 8"),
        ({"seed": None}, "--seed was 0, is not given"),
        ({"samples": 3, "limit": 4}, "--samples-per-shard was not given, is 3, --limit was not given, is 4"),
    ):
        with pytest.raises(ValueError, match=rf"was begun otherwise \({says}\); go on .* --out, .* --force"):
            packed(source, tmp_path / "out", **options)
    captioned(source, 13)
    with pytest.raises(ValueError, match=r"was begun otherwise \(the source has changed\)"):
        packed(source, tmp_path / "out")
    assert contents(tmp_path / "out") == before
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert packed(source, tmp_path / "out", samples=5, force=True).samples == 13
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    assert len(list((tmp_path / "out").glob("*.tar.idx"))) == 3


def test_a_finished_folder_is_left_as_it_is(tmp_path, monkeypatch):
    source = captioned(tmp_path / "in", 12)
    first = packed(source, tmp_path / "out")
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(packing, "pack_units", None)
    (source / "000" / "00003.txt").write_text("another caption")  # no listing can know
    said: list[str] = []
    assert packed(source, tmp_path / "out", say=said.append) == first
    date = datetime.fromtimestamp(times["pack.json"] / 1e9).strftime("%Y-%m-%d %H:%M")
    assert said == [f"{tmp_path}/out was packed before, on {date}, and is left as it is; --force packs anew"]
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == times


def test_a_shard_that_was_removed_is_made_again(tmp_path):
    source = captioned(tmp_path / "in", 30)
    packed(source, tmp_path / "out", samples=10)
    before = contents(tmp_path / "out")
    (tmp_path / "out" / "00001.tar").unlink()
    packed(source, tmp_path / "out", samples=10)
    assert contents(tmp_path / "out") == before


def test_other_shards_in_the_folder_are_not_mixed_with(tmp_path):
    source = captioned(tmp_path / "in", 3)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "00007.tar").write_bytes(b"precious")
    for force in (False, True):
        with pytest.raises(ValueError, match=r"holds other tar files \(00007.tar\); give a folder of its own"):
            packed(source, tmp_path / "out", force=force)
    assert (tmp_path / "out" / "00007.tar").read_bytes() == b"precious"


def test_a_damaged_plan_is_named(tmp_path):
    source = captioned(tmp_path / "in", 3)
    packed(source, tmp_path / "out")
    for text in ("", "[]", "{}", '{"plan": 3, "finished": null}', "[" * 100_000):
        (tmp_path / "out" / "pack.json").write_text(text)
        with pytest.raises(ValueError, match=r"pack.json is damaged; remove it and the shards beside it"):
            packed(source, tmp_path / "out")


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cannot be written to .*; give another folder with --out"):
        packed(captioned(tmp_path / "in", 1), tmp_path / "file" / "out")


def test_classes_of_train_and_test_agree(tmp_path):
    for split, names in (("train", "ab"), ("val", "ab"), ("other", "abc")):
        for number, name in enumerate(names):
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "1.jpg").write_bytes(image(number))
    packed(tmp_path / "train", tmp_path / "out" / "train")
    packed(tmp_path / "val", tmp_path / "out" / "test")
    assert (tmp_path / "out" / "classnames.txt").read_text() == "a\nb\n"
    with pytest.raises(ValueError, match="lists other classes than the source has"):
        packed(tmp_path / "other", tmp_path / "out" / "test", force=True)


def test_only_one_writes_into_a_folder(tmp_path):
    source = captioned(tmp_path / "in", 3)
    (tmp_path / "out").mkdir()
    with (
        packing.state.alone(tmp_path / "out"),
        pytest.raises(ValueError, match=r"another `silc shards pack` writes into .*; wait for it, or take another"),
    ):
        packed(source, tmp_path / "out")
    assert packed(source, tmp_path / "out").samples == 3
    shutil.rmtree(source)


def test_who_waits_at_a_lock_that_was_removed_takes_the_new_one(tmp_path, monkeypatch):
    lock = tmp_path / packing.state.LOCK
    real, opened = os.open, []

    def open_and_lose(path, *arguments, **options):
        descriptor = real(path, *arguments, **options)
        if Path(path) == lock and not opened:  # the one before ends just now
            lock.unlink()
        opened.append(path)
        return descriptor

    monkeypatch.setattr(os, "open", open_and_lose)
    with (
        packing.state.alone(tmp_path),
        pytest.raises(ValueError, match="another `silc shards pack`"),
        packing.state.alone(tmp_path),
    ):
        raise AssertionError("two at a time")


def test_no_file_is_removed_while_it_is_open(tmp_path, monkeypatch):
    source, held = captioned(tmp_path / "in", 12), []
    remove = shutil.rmtree

    def look(folder, *arguments, **options):
        links = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
        maps = Path("/proc/self/maps").read_text().split()
        held.extend(path for path in (*links, *maps) if path.startswith(f"{folder}/"))
        remove(folder, *arguments, **options)

    monkeypatch.setattr(shutil, "rmtree", look)
    packed(source, tmp_path / "out")
    assert held == []
    assert not (tmp_path / "out" / UNITS).exists()
