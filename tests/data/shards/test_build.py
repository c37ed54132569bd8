"""The index finds every sample; what has not changed is not read again; a build may end at any moment."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from silc.data.shards import build as building
from silc.data.shards import indexing
from silc.data.shards.build import Built, build
from silc.data.shards.errors import Unreadable
from silc.errors import RunStopped, StoreFailed
from tests.data.shards import tars
from tests.data.shards.indexed import energon, expected, hashes, pairs, read, write


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SILC_CACHE", str(tmp_path / "cache"))


def again(folder: Path, **options) -> Built:
    return build([str(path) for path in sorted(folder.glob("*.tar"))], f"{folder}/", **options)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_every_sample_is_found_as_tarfile_and_webdataset_find_it(tmp_path):
    paths = write(tmp_path / "set", [3, 0, 300, 1])
    built = again(tmp_path / "set")
    assert built.manifest is not None
    assert list(built.manifest.addresses) == paths
    assert built.manifest.samples.tolist() == [3, 0, 300, 1]
    assert built.manifest.sizes.tolist() == [os.path.getsize(path) for path in paths]
    assert read(built.manifest) == expected(built.manifest)
    theirs = [(s["__key__"], s["jpg"], s["txt"]) for s in wds.WebDataset(paths, shardshuffle=False, empty_check=False)]
    ours = [(key, members["jpg"], members["txt"]) for shard in read(built.manifest) for key, members in shard]
    assert ours == theirs
    assert built.manifest.extensions == {"jpg": 304, "txt": 304}
    assert names(tmp_path / "set") == {
        "shards.manifest",
        *(f"0000{i}.tar{end}" for i in range(4) for end in ("", ".idx")),
    }


@given(st.lists(tars.entries(), min_size=1, max_size=4), st.sampled_from(tars.FORMATS))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_odd_shards_too(tmp_path, shards, form):
    folder = tmp_path / "set"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for number, entries in enumerate(shards):
        (folder / f"{number}.tar").write_bytes(tars.pack(entries, form))
    built = again(folder)
    assert built.manifest is not None
    assert read(built.manifest) == expected(built.manifest)
    lost = [tars.content((folder / f"{number}.tar").read_bytes()).lost for number in range(len(shards))]
    assert built.lost == {f"{number}.tar": each for number, each in enumerate(lost) if each}
    total = sum(sum(each.values()) for each in lost)
    assert sum(built.manifest.lost.values()) == total


def test_caption_hashes(tmp_path):
    write(tmp_path / "set", [4, 2])
    (tmp_path / "set" / "00001.tar").write_bytes(
        tars.pack([("a.jpg", b"j"), ("a.txt", " A\u00c9 \n b".encode()), ("b.jpg", b"j"), ("b.TXT", b"a\xc3\xa9 B")])
    )
    built = again(tmp_path / "set", caption="txt")
    assert built.manifest is not None
    assert built.manifest.caption == "txt"
    found = [np.frombuffer(Path(built.manifest.hashes(i)).read_bytes(), "<u8").tolist() for i in range(2)]
    assert found[0] == [hashes(members["txt"]) for _, members in read(built.manifest)[0]]
    assert found[1] == [hashes("a\u00e9 b".encode())] * 2


def test_what_has_not_changed_is_not_read_again(tmp_path):
    write(tmp_path / "set", [3, 5])
    again(tmp_path / "set")
    before = (tmp_path / "set" / "shards.manifest").read_bytes()
    built = again(tmp_path / "set")
    assert built.how == {"kept": 2}
    assert (tmp_path / "set" / "shards.manifest").read_bytes() == before
    assert again(tmp_path / "set", force=True).how == {"read": 2}


def test_captions_asked_for_later_are_read_and_stay(tmp_path):
    write(tmp_path / "set", [3, 5])
    again(tmp_path / "set")
    assert again(tmp_path / "set", caption="txt").how == {"read": 2}
    built = again(tmp_path / "set")
    assert built.how == {"kept": 2}
    assert built.manifest is not None
    assert built.manifest.caption == "txt"


def larger(path: Path) -> None:
    tars.append(path, [("new.jpg", b"j"), ("new.txt", b"t")])


def another(path: Path) -> None:
    """The same size, with borders elsewhere."""
    entries = pairs(5, seed=7)
    path.write_bytes(tars.pack([entries[2], *entries[:2], *entries[3:]])[: path.stat().st_size])


def without_sidecar(path: Path) -> None:
    Path(f"{path}.idx").unlink()


def cut_sidecar(path: Path) -> None:
    os.truncate(f"{path}.idx", 16)


def damaged_sidecar(path: Path) -> None:
    """Noticed when the file of the shard changes too."""
    Path(f"{path}.idx").write_bytes(bytes(8) * 6)
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("change", [larger, another, without_sidecar, cut_sidecar, damaged_sidecar])
def test_what_has_changed_is_read_again(tmp_path, change):
    write(tmp_path / "set", [4, 5, 6])
    again(tmp_path / "set")
    change(tmp_path / "set" / "00001.tar")
    built = again(tmp_path / "set")
    assert built.how == {"kept": 2, "read": 1}
    assert built.manifest is not None
    assert read(built.manifest) == expected(built.manifest)


def test_another_time_of_change_alone_costs_a_look_at_a_few_samples(tmp_path, monkeypatch):
    write(tmp_path / "set", [4, 400])
    again(tmp_path / "set", caption="txt")
    os.utime(tmp_path / "set" / "00001.tar", ns=(5, 5))
    looks = []
    monkeypatch.setattr(indexing, "parse", lambda data, parse=indexing.parse: looks.append(1) or parse(data))
    built = again(tmp_path / "set")
    assert built.how == {"kept": 1, "compared": 1}
    assert len(looks) == indexing.PICKS
    assert built.manifest is not None
    assert list(built.manifest.versions)[1] == "5"
    assert again(tmp_path / "set").how == {"kept": 2}


def test_other_captions_of_the_same_size_are_noticed_where_captions_are_hashed(tmp_path):
    write(tmp_path / "set", [4, 5])
    again(tmp_path / "set", caption="txt")
    path = tmp_path / "set" / "00001.tar"
    path.write_bytes(path.read_bytes().replace(b"Thing 3  of", b"Thong 3  of"))
    os.utime(path, ns=(5, 5))
    built = again(tmp_path / "set")
    assert built.how == {"kept": 1, "read": 1}
    assert built.manifest is not None
    assert np.fromfile(built.manifest.hashes(1), "<u8")[3] == hashes(b"thong 3 of 100")


def test_a_copied_folder_needs_no_reading(tmp_path):
    write(tmp_path / "set", [4, 5])
    before = again(tmp_path / "set").manifest
    shutil.copytree(tmp_path / "set", tmp_path / "copy", copy_function=shutil.copyfile)
    shutil.rmtree(tmp_path / "set")
    built = again(tmp_path / "copy")
    assert built.how == {"compared": 2}
    assert built.manifest is not None
    assert before is not None
    assert built.manifest.identity() == before.identity()
    assert read(built.manifest) == expected(built.manifest)


def test_a_folder_of_its_own_for_the_index(tmp_path):
    addresses = write(tmp_path / "data" / "a", [2, 3]) + write(tmp_path / "data" / "b", [4])
    built = build(addresses, f"{tmp_path}/index/")
    assert built.manifest is not None
    assert list(built.manifest.addresses) == addresses
    assert sorted(str(path.relative_to(tmp_path / "index")) for path in (tmp_path / "index").rglob("*.*")) == [
        "a/00000.tar.idx",
        "a/00001.tar.idx",
        "b/00000.tar.idx",
        "shards.manifest",
    ]
    assert not list((tmp_path / "data").rglob("*.idx"))
    assert read(built.manifest) == expected(built.manifest)
    assert build(addresses, f"{tmp_path}/index/").how == {"kept": 3}
    (tmp_path / "index").rename(tmp_path / "moved")
    assert build(addresses, f"{tmp_path}/moved/").how == {"kept": 3}


def test_another_index_of_the_same_shards_is_copied(tmp_path):
    write(tmp_path / "set", [2, 3])
    first = again(tmp_path / "set").manifest
    assert first is not None
    built = build(list(first.addresses), f"{tmp_path}/index/", earlier=first)
    assert built.how == {"kept": 2}
    assert built.manifest is not None
    assert read(built.manifest) == expected(built.manifest)


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


def test_shards_that_are_gone_are_told_and_left_out(tmp_path):
    write(tmp_path / "set", [2, 3, 4])
    again(tmp_path / "set")
    (tmp_path / "set" / "00001.tar").unlink()
    built = again(tmp_path / "set")
    assert built.gone == ["00001.tar"]
    assert built.manifest is not None
    assert built.manifest.samples.tolist() == [2, 4]
    built = build([*map(str, sorted((tmp_path / "set").glob("*.tar"))), f"{tmp_path}/set/9.tar"], f"{tmp_path}/set/")
    assert built.bad == [("9.tar", "it is not there any more")]


def test_damage_and_loss_are_told(tmp_path):
    write(tmp_path / "set", [9, 3])
    os.truncate(tmp_path / "set" / "00000.tar", 512 * 9 + 100)
    tars.append(tmp_path / "set" / "00001.tar", [("000001.jpg", b"newer"), ("000001.txt", b"newer")])
    built = again(tmp_path / "set")
    (note,) = built.notes
    assert note.startswith("00000.tar is damaged (cut inside")
    assert built.lost == {"00001.tar": {"key comes twice": 1}}
    assert built.manifest is not None
    (found,) = read(built.manifest.select(np.array([1])))
    assert found[-1] == ("000001", {"jpg": b"newer", "txt": b"newer"})


def test_a_cut_shard_that_was_touched_is_not_read_again(tmp_path):
    """Its last sample cannot be compared, being cut."""
    write(tmp_path / "set", [9])
    os.truncate(tmp_path / "set" / "00000.tar", 512 * 9 + 100)
    again(tmp_path / "set")
    os.utime(tmp_path / "set" / "00000.tar", ns=(5, 5))
    assert again(tmp_path / "set").how == {"compared": 1}


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


def test_rows_noted_for_another_purpose_are_not_used(tmp_path):
    write(tmp_path / "set", [2, 3])
    (tmp_path / "set" / "00001.tar").write_bytes(b"no tar at all" * 1000)
    assert again(tmp_path / "set").manifest is None
    assert again(tmp_path / "set").how == {"kept": 1}
    assert again(tmp_path / "set", caption="txt").how == {"read": 1}
    assert again(tmp_path / "set", caption="txt", images=["tif"]).how == {"read": 1}


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


def shifted(path: Path) -> None:
    path.write_bytes(bytes(512) + path.read_bytes()[:-512])


def cut(path: Path) -> None:
    os.truncate(f"{path}.idx", 13)


@pytest.mark.parametrize("change", [grown, apart, cut, without_sidecar])
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
    assert built.notes[1] == "00002.tar: sizes.json counts 8 samples, 7 were found"


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
