"""A run finds the index of its shards, or makes it; shards that cannot be trained on are refused before it starts."""

from __future__ import annotations

import io
import multiprocessing
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest

from silc.data.shards import indexing
from silc.data.shards import prepare as preparing
from silc.data.shards.build import build
from silc.data.shards.manifest import Manifest
from silc.data.shards.prepare import open_prepared, prepare
from tests.data.shards import tars
from tests.data.shards.indexed import expected, hashes, pairs, read, write

ROOT = Path(__file__).resolve().parents[3]


def start(*patterns: object, **options) -> tuple[Manifest, list[str]]:
    """What a run gets, and what it says."""
    said: list[str] = []
    options = {"caption": "txt", "images": ["jpg", "PNG"], "max_lost": 0.1} | options
    manifest = prepare([str(pattern) for pattern in patterns], say=said.append, **options)
    needs = {name: options[name] for name in ("caption", "images", "hashes") if name in options}
    other = open_prepared([str(pattern) for pattern in patterns], **needs)
    assert list(other.addresses) == list(manifest.addresses)
    assert other.identity() == manifest.identity()
    assert [other.sidecar(i) for i in range(len(other))] == [manifest.sidecar(i) for i in range(len(manifest))]
    return manifest, said


def files(folder: Path, ending: str = "*") -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(ending) if path.is_file())


def no_scan(*_: object, **__: object) -> None:
    raise AssertionError("a tar is read")


def test_a_folder_is_indexed_once_and_the_index_lies_in_it(tmp_path, cache, monkeypatch):
    paths = write(tmp_path / "set", [3, 4])
    manifest, said = start(tmp_path / "set")
    assert list(manifest.addresses) == paths
    assert read(manifest) == expected(manifest)
    assert said == [f"indexing 2 shards of {tmp_path}/set/ (once; the index is kept in {tmp_path}/set/)"]
    assert files(tmp_path / "set") == [
        "00000.tar", "00000.tar.idx", "00001.tar", "00001.tar.idx", "shards.manifest",
    ]  # fmt: skip
    assert not files(cache, "*.idx")
    monkeypatch.setattr(indexing, "scan", no_scan)
    assert start(tmp_path / "set")[1] == []
    assert start(tmp_path / "set" / "shards.manifest")[1] == []
    assert start(tmp_path / "set/{00000..00001}.tar")[1] == []


def test_some_shards_of_a_folder_with_an_index(tmp_path, monkeypatch):
    paths = write(tmp_path / "set", [3, 4, 5, 6])
    start(tmp_path / "set")
    monkeypatch.setattr(indexing, "scan", no_scan)
    manifest, said = start(tmp_path / "set" / "00003.tar", tmp_path / "set" / "0000[01].tar")
    assert list(manifest.addresses) == [paths[3], paths[0], paths[1]]
    assert manifest.samples.tolist() == [6, 3, 4]
    assert read(manifest) == expected(manifest)
    assert said == []


def test_a_list_of_shards_is_indexed_in_the_cache(tmp_path, cache, monkeypatch):
    write(tmp_path / "set", [3, 4, 5])
    manifest, _ = start(tmp_path / "set/{00000..00001}.tar")
    assert read(manifest) == expected(manifest)
    assert files(tmp_path / "set") == ["00000.tar", "00001.tar", "00002.tar"]
    assert len(files(cache, "*.idx")) == 2
    manifest, _ = start(tmp_path / "set/{00001..00002}.tar")
    assert read(manifest) == expected(manifest)
    assert len(files(cache, "*.idx")) == 3
    monkeypatch.setattr(indexing, "scan", no_scan)
    monkeypatch.chdir(tmp_path)
    for pattern in ("set/0000{0,2}.tar", "set/../set/00001.tar"):
        manifest, said = start(pattern)
        assert said == []
        assert read(manifest) == expected(manifest)


def test_several_folders_and_lists(tmp_path):
    a, b = write(tmp_path / "a", [3, 4]), write(tmp_path / "b", [5, 6])
    manifest, _ = start(tmp_path / "b" / "00001.tar", tmp_path / "{a,b}" / "00000.tar", tmp_path / "a" / "00001.tar")
    assert list(manifest.addresses) == [b[1], a[0], b[0], a[1]]
    assert read(manifest) == expected(manifest)
    manifest, _ = start(tmp_path / "{a,b}")
    assert list(manifest.addresses) == a + b
    assert read(manifest) == expected(manifest)


@pytest.mark.parametrize("change", ["size", "time", "new", "gone", "sidecar", "cut"])
def test_what_has_changed_is_found_at_the_next_start(tmp_path, change):
    paths = [Path(path) for path in write(tmp_path / "set", [3, 4, 5])]
    before, _ = start(tmp_path / "set")
    if change == "size":
        tars.append(paths[1], [(f"n{i}.{end}", b"x" * 600) for i in range(9) for end in ("jpg", "txt")])
    elif change == "time":
        entries = pairs(4, seed=100)
        paths[1].write_bytes(tars.pack(entries[2:] + entries[:2]))
    elif change == "new":
        write(tmp_path / "set", [7], first=3)
    elif change == "gone":
        paths[1].unlink()
    elif change == "sidecar":
        Path(f"{paths[1]}.idx").unlink()
    else:
        os.truncate(f"{paths[1]}.idx", 24)
    after, said = start(tmp_path / "set")
    assert read(after) == expected(after)
    assert list(after.addresses) == sorted(map(str, (tmp_path / "set").glob("*.tar")))
    if change == "gone":
        manifest = tmp_path / "set" / "shards.manifest"
        assert said == [f"warning: 1 shard of {manifest} are not there any more: {paths[1]}"]
    else:
        assert said[0].startswith("indexing 1 shard")
        assert start(tmp_path / "set")[1] == []
    assert (after.identity() == before.identity()) == (change in ("time", "sidecar", "cut"))


def test_a_copied_folder_keeps_its_index(tmp_path, monkeypatch):
    write(tmp_path / "set", [3, 4])
    before, _ = start(tmp_path / "set")
    shutil.copytree(tmp_path / "set", tmp_path / "copy", copy_function=shutil.copyfile)
    shutil.rmtree(tmp_path / "set")
    monkeypatch.setattr(indexing, "scan", no_scan)
    after, said = start(tmp_path / "copy")
    assert after.identity() == before.identity()
    assert read(after) == expected(after)
    assert len(said) == 1
    (tmp_path / "copy").rename(tmp_path / "renamed")
    after, said = start(tmp_path / "renamed")
    assert after.identity() == before.identity()
    assert read(after) == expected(after)
    assert said == []


def _start_as_nobody(folder: str, queue: multiprocessing.Queue) -> None:
    if os.geteuid() == 0:  # whom no permission stops
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    manifest, said = start(folder)
    queue.put((manifest.samples.tolist(), manifest.sidecar(0), said, start(folder)[1]))


def test_a_folder_that_cannot_be_written_to_is_indexed_in_the_cache(monkeypatch):
    place = Path(tempfile.mkdtemp(prefix="silc-test-"))
    try:
        write(place / "set", [3, 4])
        (place / "cache").mkdir()
        for path, mode in ((place, 0o755), (place / "set", 0o555), (place / "cache", 0o777)):
            path.chmod(mode)
        monkeypatch.setenv("SILC_CACHE", str(place / "cache"))
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        process = context.Process(target=_start_as_nobody, args=(str(place / "set"), queue))
        process.start()
        samples, sidecar, said, later = queue.get(timeout=60)
        process.join()
        assert samples == [3, 4]
        assert sidecar.startswith(f"{place}/cache/shards/")
        assert said[0].startswith("indexing 2 shards of ")
        assert said[0].endswith(f"kept in {Path(sidecar).parent}/)")
        assert later == []
        assert files(place / "set") == ["00000.tar", "00001.tar"]
    finally:
        (place / "set").chmod(0o755)
        shutil.rmtree(place)


def test_no_place_for_the_index_is_told(tmp_path, monkeypatch):
    write(tmp_path / "set", [3, 4])
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SILC_CACHE", str(tmp_path / "file"))
    with pytest.raises(ValueError, match=r"cache folder .* cannot be made .*; set SILC_CACHE"):
        start(tmp_path / "set" / "00000.tar")


def test_more_shards_than_are_indexed_at_a_start_are_refused_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(preparing, "AUTOMATIC", 2)
    write(tmp_path / "the set", [1, 1, 1])
    with pytest.raises(
        ValueError, match=r"^data\.shards: 3 shards of .* have no index, .*`silc shards index '.*/the set/'`$"
    ):
        start(tmp_path / "the set")
    build(sorted(map(str, (tmp_path / "the set").glob("*.tar"))), f"{tmp_path}/the set/")
    assert start(tmp_path / "the set")[1] == []
    with pytest.raises(ValueError, match=r"`silc shards index --captions txt '.*/the set/'`$"):
        start(tmp_path / "the set", hashes=True)
    (tmp_path / "the set" / "00001.tar").unlink()
    write(tmp_path / "the set", [2], first=1)
    assert start(tmp_path / "the set")[0].samples.tolist() == [1, 2, 1]


def test_caption_hashes_are_made_where_they_are_needed(tmp_path, monkeypatch):
    write(tmp_path / "set", [3, 4])
    start(tmp_path / "set")
    manifest, said = start(tmp_path / "set", hashes=True)
    assert said[0].startswith("indexing 2 shards")
    assert manifest.caption == "txt"
    found = [np.fromfile(manifest.hashes(i), "<u8").tolist() for i in range(2)]
    assert found == [[hashes(members["txt"]) for _, members in shard] for shard in read(manifest)]
    Path(manifest.hashes(1)).unlink()
    assert start(tmp_path / "set")[1] == []
    _, said = start(tmp_path / "set", hashes=True)
    assert said[0].startswith("indexing 1 shard")
    monkeypatch.setattr(indexing, "scan", no_scan)
    assert start(tmp_path / "set", hashes=True)[1] == []


def test_hashes_of_other_captions_are_kept_apart(tmp_path, cache):
    write(tmp_path / "set", [3])
    tars.append(tmp_path / "set" / "00000.tar", [("z.jpg", b"j"), ("z.cap", b"words"), ("z.txt", b"others")])
    start(tmp_path / "set", hashes=True)
    manifest, _ = start(tmp_path / "set", hashes=True, caption="cap")
    assert Path(manifest.hashes(0)).is_relative_to(cache)
    assert np.fromfile(manifest.hashes(0), "<u8")[-1] == hashes(b"words")
    manifest, _ = start(tmp_path / "set", hashes=True)
    assert np.fromfile(manifest.hashes(0), "<u8")[-1] == hashes(b"others")


def test_other_extensions_of_images_need_another_look(tmp_path):
    entries = [(f"IMG.{i}.{end}", b"x") for i in range(9) for end in ("jp2", "txt")]
    write(tmp_path / "set", [30])
    tars.append(tmp_path / "set" / "00000.tar", entries)
    manifest, _ = start(tmp_path / "set", max_lost=0.5)
    assert not manifest.lost
    manifest, _ = start(tmp_path / "set", images=["jpg", "jp2"], max_lost=0.5)
    assert manifest.lost == {"dot in the name": 9}


def test_an_index_made_for_fewer_extensions_serves_where_no_shard_has_the_others(tmp_path):
    paths = write(tmp_path / "set", [30])
    build(paths, f"{tmp_path}/set/", images=["jpg"])
    _, said = start(tmp_path / "set", images=["jpg", "tif", "gif"])
    assert said == []
    _, said = start(tmp_path / "set", images=["jpg", "txt"])
    assert said[0].startswith("indexing 1 shard of ")


def test_other_extensions_of_images_need_another_look_in_the_cache_too(tmp_path):
    write(tmp_path / "set", [30, 30])
    tars.append(tmp_path / "set" / "00000.tar", [(f"IMG.{i}.{end}", b"x") for i in range(9) for end in ("jp2", "txt")])
    start(tmp_path / "set" / "00000.tar")
    start(tmp_path / "set" / "00001.tar", images=["jpg", "jp2"])
    manifest, _ = start(tmp_path / "set" / "00000.tar", images=["jpg", "jp2"], max_lost=0.5)
    assert manifest.lost == {"dot in the name": 9}


def test_a_manifest_of_elsewhere(tmp_path):
    paths = write(tmp_path / "data" / "a", [3, 4]) + write(tmp_path / "data" / "b", [5])
    build(paths, f"{tmp_path}/index/")
    for pattern in (tmp_path / "index", tmp_path / "index" / "shards.manifest"):
        manifest, said = start(pattern)
        assert list(manifest.addresses) == paths
        assert read(manifest) == expected(manifest)
        assert said == []
    os.utime(paths[0], ns=(5, 5))
    manifest, said = start(tmp_path / "index")
    assert said[0].startswith("indexing 1 shard of ")
    assert read(manifest) == expected(manifest)
    Path(paths[2]).unlink()
    with pytest.raises(ValueError, match=r"shards\.manifest: no such files: .*b/00000\.tar"):
        start(tmp_path / "index")
    write(tmp_path / "index", [1])
    with pytest.raises(ValueError, match="holds tar files too; name the manifest"):
        start(tmp_path / "index")


def test_a_damaged_manifest_is_made_anew_or_refused_where_it_is_named(tmp_path):
    write(tmp_path / "set", [3, 4])
    start(tmp_path / "set")
    os.truncate(tmp_path / "set" / "shards.manifest", 300)
    with pytest.raises(ValueError, match="is damaged"):
        start(tmp_path / "set" / "shards.manifest")
    manifest, said = start(tmp_path / "set")
    assert "is damaged" in said[0]
    assert read(manifest) == expected(manifest)


def test_shards_named_twice_are_refused(tmp_path, cache):
    write(tmp_path / "set", [3, 4])
    with pytest.raises(ValueError, match=r"^data\.shards: .*00000\.tar is named twice"):
        start(tmp_path / "set", tmp_path / "set" / "00000.tar")
    assert not cache.exists()  # nothing was indexed before
    write(tmp_path / "other", [2])
    for name in ("set", "other", "set"):
        start(tmp_path / name)
    with pytest.raises(ValueError, match=r"00000\.tar is named twice"):
        start(tmp_path / "set", tmp_path / "other", tmp_path / "set" / "00000.tar")
    (tmp_path / "other" / "00005.tar").hardlink_to(tmp_path / "set" / "00001.tar")
    with pytest.raises(ValueError, match=r"set/00001\.tar and .*other/00005\.tar are the same file; name it once"):
        start(tmp_path / "set", tmp_path / "other")
    (tmp_path / "link").symlink_to(tmp_path / "set")
    with pytest.raises(ValueError, match=r"set/00000\.tar and .*link/00000\.tar are the same file"):
        start(tmp_path / "set", tmp_path / "link")


def test_what_is_not_there_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    for pattern, says in (("x.tar", "no such file"), ("*.tar", "no tar file matches"), ("empty", r"holds no \.tar")):
        with pytest.raises(ValueError, match=rf"^data\.shards: .*{says}"):
            start(tmp_path / pattern)
    with pytest.raises(ValueError, match=r"set eval\.shards to tar files"):
        start(what="eval.shards")
    with pytest.raises(ValueError, match=r"is a command and is not run"):
        start("pipe:cat x.tar")


def test_members_that_are_needed(tmp_path):
    write(tmp_path / "set", [3])
    says = r"^data\.shards: no sample in \[.*\] has a caption \(cap\); the extensions found are jpg, txt$"
    with pytest.raises(ValueError, match=says):
        start(tmp_path / "set", caption="cap")
    with pytest.raises(ValueError, match=r"has a image \(webp/gif\)"):
        start(tmp_path / "set", images=["webp", "gif"])
    assert start(tmp_path / "set", images=["JPG"], caption="TXT")[0].samples.tolist() == [3]


def test_shards_without_samples(tmp_path):
    write(tmp_path / "set", [0, 3, 0])
    _, said = start(tmp_path / "set")
    assert said[1] == f"warning: no sample in 2 shards: {tmp_path}/set/00000.tar, {tmp_path}/set/00002.tar"
    assert start(tmp_path / "set")[1] == said[1:]
    with pytest.raises(ValueError, match=r"contain no sample in 1 tar file: they are empty"):
        start(tmp_path / "set" / "00000.tar")


def test_more_lost_samples_than_are_allowed(tmp_path, caplog):
    write(tmp_path / "set", [30, 6])
    newer = [(f"{i:06}.{end}", b"new") for i in range(3) for end in ("jpg", "txt")]
    tars.append(tmp_path / "set" / "00001.tar", newer)
    assert start(tmp_path / "set")[0].samples.tolist() == [30, 6]
    assert "3 of 39 samples cannot be used (key comes twice: 3), all in" in caplog.text
    with pytest.raises(
        ValueError, match=r"3 of 39 samples cannot be used .*00001\.tar: more than data\.max_skipped=0\.05"
    ):
        start(tmp_path / "set", max_lost=0.05)
    with pytest.raises(ValueError, match="3 of 9 samples cannot be used"):
        start(tmp_path / "set" / "00001.tar")


def test_a_shard_that_is_no_tar(tmp_path):
    write(tmp_path / "set", [3, 4, 5])
    (tmp_path / "set" / "00001.tar").write_bytes(b"\x1f\x8b" + bytes(5000))
    with pytest.raises(ValueError, match=r"1 of 3 shards cannot be indexed: 00001\.tar: .*--skip-bad"):
        start(tmp_path / "set")
    build(sorted(map(str, (tmp_path / "set").glob("*.tar"))), f"{tmp_path}/set/", skip_bad=True)
    manifest, said = start(tmp_path / "set")
    assert manifest.samples.tolist() == [3, 0, 5]
    assert said[0].startswith(f"warning: 1 shard left out when the index was made: {tmp_path}/set/00001.tar (")
    (tmp_path / "set" / "00001.tar").write_bytes(tars.pack(pairs(9)))
    assert start(tmp_path / "set")[0].samples.tolist() == [3, 9, 5]


def test_other_processes_open_what_was_prepared_and_nothing_else(tmp_path):
    write(tmp_path / "set", [3, 4])
    with pytest.raises(ValueError, match=r"the index that was prepared on this machine cannot be read .*start again"):
        open_prepared([f"{tmp_path}/set"], caption="txt", images=["jpg"])
    start(tmp_path / "set")
    shutil.rmtree(tmp_path / "set")  # the files are not looked at
    assert open_prepared([f"{tmp_path}/set"], caption="txt", images=["PNG", "jpg"]).samples.tolist() == [3, 4]


def test_another_run_may_add_shards_to_an_index_in_the_cache_meanwhile(tmp_path):
    write(tmp_path / "set", [3, 4])
    first, _ = start(tmp_path / "set" / "00001.tar")
    start(tmp_path / "set" / "00000.tar")
    other = open_prepared([f"{tmp_path}/set/00001.tar"], caption="txt", images=["jpg", "png"])
    assert list(other.addresses) == list(first.addresses)
    assert read(other) == expected(other)


@pytest.mark.parametrize("text", ["", "7", "[7]", "[[7, 7]]", "[]", '[["/a/x.manifest", 0]]\n', "[" * 9999])
def test_a_damaged_record_is_told(tmp_path, cache, text):
    write(tmp_path / "set", [3])
    start(tmp_path / "set")
    next(cache.rglob("prepared")).write_text(text)
    with pytest.raises(ValueError, match="cannot be read"):
        open_prepared([f"{tmp_path}/set"], caption="txt", images=["jpg", "png"])


@pytest.mark.parametrize("change", [lambda data: data + b"x", lambda data: data[:-1], lambda data: data[:20]])
def test_a_record_that_is_not_whole_is_told(tmp_path, cache, change):
    write(tmp_path / "set", [3])
    start(tmp_path / "set")
    record = next(cache.rglob("prepared"))
    record.write_bytes(change(record.read_bytes()))
    with pytest.raises(ValueError, match="cannot be read"):
        open_prepared([f"{tmp_path}/set"], caption="txt", images=["jpg", "png"])


def _start_in(folder: str, queue: multiprocessing.Queue) -> None:
    said: list[str] = []
    manifest = prepare([folder], caption="txt", images=["jpg"], max_lost=0, say=said.append)
    queue.put((manifest.samples.tolist(), [text.split()[0] for text in said]))


def test_of_several_processes_one_makes_the_index(tmp_path):
    write(tmp_path / "set", [300] * 8)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_start_in, args=(str(tmp_path / "set"), queue)) for _ in range(4)]
    for process in processes:
        process.start()
    results = [queue.get(timeout=200) for _ in processes]
    for process in processes:
        process.join()
    assert [samples for samples, _ in results] == [[300] * 8] * 4
    assert sum(said.count("indexing") for _, said in results) == 1
    assert files(tmp_path / "set", ".*") == []


UNGUARDED = """
import sys
from silc.data.shards.prepare import prepare
print(len(prepare([sys.argv[1]], caption="txt", images=["jpg"], max_lost=0.1)), "shards")
"""


def test_a_script_without_a_guard_may_index(tmp_path):
    """Its processes do not run the script again, where they would wait for the lock of the first."""
    (tmp_path / "set").mkdir()
    for number in range(20):  # enough for several processes
        with tarfile.open(tmp_path / "set" / f"{number:05}.tar", "w") as tar:
            for name in ("a.jpg", "a.txt"):
                info = tarfile.TarInfo(name)
                info.size = 3
                tar.addfile(info, io.BytesIO(b"abc"))
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")]), "SILC_CACHE": str(tmp_path / "cache")}
    words = [sys.executable, str(script), str(tmp_path / "set")]
    done = subprocess.run(words, env=os.environ | paths, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.splitlines()[-1:] == ["20 shards"], done.stderr
