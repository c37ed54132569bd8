"""The index finds every sample; what has not changed is not read again; a build may end at any moment."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from silc.data.shards import indexing
from silc.data.shards.build import build
from tests.data.shards import tars
from tests.data.shards.indexed import again, expected, hashes, names, pairs, read, write


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


def test_hashes_of_other_captions_are_made_anew(tmp_path):
    (tmp_path / "set").mkdir()
    entries = [("a.jpg", b"j"), ("a.txt", b"text"), ("a.cap", b"caption")]
    (tmp_path / "set" / "0.tar").write_bytes(tars.pack(entries))
    for extension, words in (("txt", b"text"), ("cap", b"caption")):
        built = again(tmp_path / "set", caption=extension)
        assert built.how == {"read": 1}
        assert built.manifest is not None
        assert np.fromfile(built.manifest.hashes(0), "<u8").tolist() == [hashes(words)]


def test_an_index_of_other_shards_in_the_same_place_is_replaced(tmp_path):
    first, second = write(tmp_path / "a", [2, 3]), write(tmp_path / "b", [4])
    build(first, f"{tmp_path}/index/")
    built = build(second, f"{tmp_path}/index/")
    assert built.how == {"read": 1}
    assert built.gone == first
    assert built.manifest is not None
    assert read(built.manifest) == expected(built.manifest)


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


def test_rows_noted_for_another_purpose_are_not_used(tmp_path):
    write(tmp_path / "set", [2, 3])
    (tmp_path / "set" / "00001.tar").write_bytes(b"no tar at all" * 1000)
    assert again(tmp_path / "set").manifest is None
    assert again(tmp_path / "set").how == {"kept": 1}
    assert again(tmp_path / "set", caption="txt").how == {"read": 1}
    assert again(tmp_path / "set", caption="txt", images=["tif"]).how == {"read": 1}
