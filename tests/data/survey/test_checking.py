"""A check finds every planted damage under its key, and goes on where it was interrupted."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections import Counter
from pathlib import Path

import pytest

from silc.config import DataConfig
from silc.data.loader import build_loader
from silc.data.survey import checking, examine, journal
from silc.data.survey.addresses import find, indexed
from silc.data.survey.checking import Findings, check
from silc.data.survey.examine import Settings
from silc.data.survey.findings import sentences, to_dict
from silc.errors import RunStopped, StoreFailed
from silc.storage import put
from tests.data.shards import tars
from tests.data.survey.sets import encoded, odd, pair, picture, whole, write

PLAIN = DataConfig()
SETTINGS = Settings(tuple(PLAIN.image_keys), PLAIN.caption_key, PLAIN.caption_lines, 10_000)
BIG = encoded(picture(0, (200, 200)), "PNG")
Bad = list[tuple[str, str, str]]


def checked(patterns: list[str], settings: Settings = SETTINGS, **options) -> tuple[Findings, Bad]:
    """What was found, and (shard, key, reason) of what is bad."""
    bad: Bad = []
    options = {"jobs": 1} | options
    found = check(find(patterns), settings, note=lambda *row: bad.append((Path(row[0]).name, *row[1:])), **options)
    return found, bad


DAMAGE = {
    "cut": (encoded(picture(1))[:-200], "a", "undecodable image"),
    "svg": (b"<svg/>", "a", "undecodable image"),
    "absent": (None, "a", "no image"),
    "large": (BIG, "a", "too many pixels"),
    "bare": (encoded(picture(2)), None, "no caption"),
    "blank": (encoded(picture(3)), " \n", "empty caption"),
    "unseen": (encoded(picture(4)), "\u200b\ufeff", "empty caption"),
    "latin": (encoded(picture(5)), b"caf\xe9", "caption is not utf-8"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_each_damage_of_a_sample_is_found_under_its_key(tmp_path, name):
    image, caption, reason = DAMAGE[name]
    write(tmp_path / "set", [whole(2), [*whole(3), *pair(name, image, caption)]])
    found, bad = checked([str(tmp_path / "set")])
    assert bad == [("00001.tar", name, reason)]
    assert (found.samples, found.whole, found.damaged, found.lost) == (6, 5, 1, 0)
    assert found.faults == {reason: 1}
    assert found.examples == {reason: [f"00001/{name}"]}
    assert not found.sound


def test_both_faults_of_a_sample_count_and_it_counts_once(tmp_path):
    write(tmp_path / "set", [[*whole(1), *pair("x", b"no image", "")]])
    found, bad = checked([str(tmp_path / "set")])
    assert bad == [("00000.tar", "x", "empty caption"), ("00000.tar", "x", "undecodable image")]
    assert (found.samples, found.whole, found.damaged) == (2, 1, 1)


PACKING = {
    "key comes twice": [*pair("x", encoded(picture(1)), "a"), *whole(1), *pair("x", encoded(picture(2)), "b")],
    "members not adjacent": [*pair("x", encoded(picture(1)), None), *whole(1), *pair("x", None, "b")],
    "dot in the name": [("x.01.jpg", b"1"), ("x.01.txt", b"1"), ("x.02.jpg", b"2"), ("x.02.txt", b"2")],
    "too many members": [(f"x.{i}", b"") for i in range(1100)],
}


@pytest.mark.parametrize("reason", PACKING)
def test_what_packing_lost_is_found_under_its_key(tmp_path, reason):
    write(tmp_path / "set", [[*PACKING[reason], *pair("y", encoded(picture(9)), "c")]])
    found, bad = checked([str(tmp_path / "set")])
    assert bad == [("00000.tar", "x", reason)]
    lost = 2 if reason == "dot in the name" else 1
    assert (found.lost, found.faults) == (lost, {reason: lost})
    assert found.samples == found.whole + lost
    assert not found.sound


def test_a_tar_that_is_cut(tmp_path):
    data = tars.pack(whole(4))
    write(tmp_path / "set", [data[: data.rindex(b"thing 3")]])
    found, bad = checked([str(tmp_path / "set")])
    assert [row[:2] for row in bad] == [("00000.tar", ""), ("00000.tar", "0003")]
    assert bad[0][2].startswith("is damaged (cut inside")
    assert bad[1][2] == "cut off by the end of a damaged shard"
    assert (found.samples, found.whole, len(found.cut)) == (4, 3, 1)


def test_a_second_tar_behind_the_end_of_the_first(tmp_path):
    write(tmp_path / "set", [tars.pack(whole(2)) + tars.pack(whole(2, seed=9))])
    found, bad = checked([str(tmp_path / "set")])
    assert (found.samples, found.whole, found.sound) == (2, 2, False)
    ((shard, key, reason),) = bad
    assert (shard, key) == ("00000.tar", "")
    assert "behind its end mark" in reason


def test_shards_that_are_none(tmp_path):
    paths = write(tmp_path / "set", [whole(2), b"\x1f\x8b" + bytes(9000), b"", whole(1, seed=7)])
    found, bad = checked([str(tmp_path / "set")])
    assert [row[:2] for row in bad] == [("00001.tar", "")]
    assert "is not a tar file" in bad[0][2]
    assert found.unreadable[0][0] == paths[1]
    assert (found.shards, found.samples, found.whole, found.sound) == (4, 3, 3, False)
    assert (paths[2], "is empty") in found.notes


def test_a_set_in_order(tmp_path):
    paths = write(tmp_path / "set", [whole(3), whole(2, seed=5)])
    found, bad = checked([str(tmp_path / "set")])
    assert bad == []
    assert found.sound
    assert (found.whole, found.captions, found.size) == (5, 5, sum(map(os.path.getsize, paths)))
    assert next(sentences(found)) == "5 of 5 samples in 2 shards (0.0 GB) can be trained on, with 5 captions"


def test_a_set_without_samples(tmp_path):
    write(tmp_path / "set", [[]])
    found, bad = checked([str(tmp_path / "set")])
    assert (found.samples, found.whole, found.sound, bad) == (0, 0, True, [])
    assert next(sentences(found)).startswith("0 of 0 samples in 1 shard ")


def test_repeats_are_those_of_a_counter(tmp_path):
    jpegs = [encoded(picture(seed)) for seed in (1, 1, 2, 1, 3, 3)]
    captions = ["one", "One ", "two", "one", "ONE", "three\nthree\ntwo"]
    entries = [entry for i, (a, b) in enumerate(zip(jpegs, captions, strict=True)) for entry in pair(f"{i}", a, b)]
    write(tmp_path / "set", [entries[:6], entries[6:], whole(1, seed=50)])
    found, _ = checked([str(tmp_path / "set")])
    images = Counter(hashlib.sha256(data).digest() for data in jpegs)
    pairs = Counter(zip(jpegs, (caption.strip() for caption in captions), strict=True))
    texts = Counter(["one", "one", "two", "one", "one", "three", "two"])
    for name, counts in (("images", images), ("pairs", pairs), ("texts", texts)):
        expected = sum(counts.values()) + 1, len(counts) + 1, sum(n > 1 for n in counts.values())
        assert (found.repeats[name].records, found.repeats[name].distinct, found.repeats[name].repeated) == expected
    assert found.repeated["images"] == [(3, "00000/0", "00001/3"), (2, "00001/4", "00001/5")]
    assert found.repeated["pairs"] == [(2, "00000/0", "00001/3")]
    assert found.repeated["texts"] == [(4, "00000/0", "00001/4"), (2, "00000/2", "00001/5")]
    assert found.sound
    text = "\n".join(sentences(found))
    assert (
        "3 of 7 images repeat an earlier one (byte for byte); 2 different, the most frequent 3 times, 00000/0" in text
    )


def test_odd_images_are_counted_and_are_no_damage(tmp_path):
    entries = [
        entry
        for name, data in odd().items()
        for entry in pair(name.partition(".")[0], data, name, name.partition(".")[2])
    ]
    write(tmp_path / "set", [entries])
    found, _ = checked([str(tmp_path / "set")])
    tally = found.tally
    assert found.sound
    assert tally.formats == {"JPEG": 4, "PNG": 2, "WEBP": 1}
    assert tally.colors == {"RGB": 4, "CMYK": 1, "grey": 2}
    assert (tally.alpha, tally.deep, tally.animated, tally.orientations) == (1, 1, 1, {"6": 1})
    assert tally.not_srgb == 1
    assert "training ignores profiles" in list(sentences(found))[-1]


def test_a_field_of_a_json_and_other_images(tmp_path):
    samples = [("a", {"caption": "one"}), ("b", {"title": "two"}), ("c", {"caption": ["three", "four"]})]
    entries = [
        entry
        for number, (key, value) in enumerate(samples)
        for entry in ((f"{key}.PIC", encoded(picture(number))), (f"{key}.json", json.dumps(value).encode()))
    ]
    write(tmp_path / "set", [entries])
    found, bad = checked([str(tmp_path / "set")], SETTINGS._replace(captions="json:caption", images=("Pic",)))
    assert bad == [("00000.tar", "b", "no field caption in the json")]
    assert (found.whole, found.captions) == (2, 3)


def test_captions_that_are_json_are_refused_as_by_training(tmp_path):
    text = '{"caption": "one"}'
    write(tmp_path / "set", [[entry for i in range(3) for entry in pair(f"{i}", encoded(picture(i)), text)]])
    found, bad = checked([str(tmp_path / "set")])
    assert (found.whole, found.json, found.sound, bad) == (3, 3, False, [])
    assert list(sentences(found))[1].startswith("but training refuses them: most captions are JSON; name the field")
    assert checked([str(tmp_path / "set")], SETTINGS._replace(captions="txt:caption"))[0].sound
    lines = json.dumps({"caption": ["one", "two"]}, indent=1)
    entries = [pair(f"{i}", encoded(picture(i)), lines if i < 2 else "thing") for i in range(3)]
    write(tmp_path / "most", [list(itertools.chain(*entries))])
    assert checked([str(tmp_path / "most")])[0].refused
    write(tmp_path / "set", [whole(2), [*pair("x", encoded(picture(7)), text), *pair("y", encoded(picture(8)), "{}}")]])
    found, _ = checked([str(tmp_path / "set")])
    assert (found.json, found.sound) == (1, True)


def test_halves_of_surrogate_pairs_in_a_json(tmp_path):
    entries = []
    for i, text in enumerate(["\ud83d one", "\ud83d two"]):
        entries += [(f"{i}.jpg", encoded(picture(i))), (f"{i}.json", json.dumps({"caption": text}).encode())]
    write(tmp_path / "set", [entries])
    found, _ = checked([str(tmp_path / "set")], SETTINGS._replace(captions="json:caption"))
    assert (found.whole, found.repeats["texts"].more) == (2, 0)
    assert json.loads(json.dumps(to_dict(found)))["sound"]


def test_three_processes_find_what_one_does(tmp_path):
    shards = [[*whole(3, seed=10 * n), *pair("bad", b"x", "y"), *PACKING["key comes twice"]] for n in range(5)]
    write(tmp_path / "set", [*shards, b"none" * 600])
    one, three = (checked([str(tmp_path / "set")], jobs=jobs) for jobs in (1, 3))
    assert to_dict(one[0]) == to_dict(three[0])
    assert one[1] == three[1]
    assert len(one[1]) == 1 + 5 * 3


class Interrupt(Exception):
    """In place of Ctrl-C."""


def interrupted(patterns: list[str], after: int) -> None:
    def progress(done: int, *_: int) -> None:
        if done == after:
            raise Interrupt

    with pytest.raises(Interrupt):
        checked(patterns, progress=progress)


def test_it_goes_on_where_it_was_interrupted(tmp_path, monkeypatch, cache):
    patterns = [str(tmp_path / "set")]
    write(tmp_path / "set", [[*whole(2, seed=3 * n % 6), *pair("bad", b"x", "y")] for n in range(4)])
    straight = checked(patterns)
    assert not list(cache.rglob("*found*"))
    interrupted(patterns, 3)
    decoded: list[bytes] = []
    original = examine.decode_image
    monkeypatch.setattr(examine, "decode_image", lambda data, limit: decoded.append(data) or original(data, limit))
    told: list[str] = []
    again = checked(patterns, say=told.append)
    assert told == ["going on after 3 shards that an earlier check has done"]
    assert len(decoded) == 3
    assert to_dict(again[0]) == to_dict(straight[0])
    assert again[1] == straight[1]
    assert not list(cache.rglob("*found*"))


@pytest.mark.parametrize("harm", ["journal", "images", "pairs", "texts"])
def test_what_was_not_written_to_the_end_is_done_again(tmp_path, cache, harm):
    patterns = [str(tmp_path / "set")]
    write(tmp_path / "set", [whole(2)] * 3)
    straight = checked(patterns)
    assert straight[0].repeats["images"].more == 4
    interrupted(patterns, 2)
    (path,) = cache.rglob(harm)
    os.truncate(path, path.stat().st_size - 20)
    assert to_dict(checked(patterns)[0]) == to_dict(straight[0])


def test_hashes_of_a_shard_that_was_not_noted_are_dropped(tmp_path, cache):
    patterns = [str(tmp_path / "set")]
    write(tmp_path / "set", [whole(2), whole(2, seed=9), whole(2, seed=20)])
    interrupted(patterns, 2)
    (path,) = cache.rglob("journal")
    os.truncate(path, path.stat().st_size - 20)
    write(tmp_path / "set" / "new", [[]])
    for name in ("00001.tar", "00002.tar"):
        (tmp_path / "set" / name).write_bytes((tmp_path / "set" / "new" / "00000.tar").read_bytes())
    found, _ = checked(patterns)
    assert (found.whole, found.repeats["images"].records, found.repeats["texts"].records) == (2, 2, 2)


def test_a_shard_that_changes_while_it_is_read(tmp_path, monkeypatch):
    (path,) = write(tmp_path / "set", [whole(2)])
    original = examine.decode_image
    monkeypatch.setattr(examine, "decode_image", lambda *words: os.utime(path, ns=(5, 5)) or original(*words))
    found, bad = checked([str(tmp_path / "set")])
    assert bad == [("00000.tar", "", "it changes while it is read")]
    assert not found.sound


def test_what_is_damaged_is_what_training_skips(tmp_path, make_config):
    damaged = [entry for name, (image, caption, _) in DAMAGE.items() for entry in pair(name, image, caption)]
    write(tmp_path / "set", [[*whole(20), *damaged[:8]], [*damaged[8:], *whole(30, seed=90)]])
    _, bad = checked([str(tmp_path / "set")])
    config = make_config([str(tmp_path / "set")], batch=4, max_skipped=0.9, max_image_pixels=SETTINGS.max_pixels)
    loader = build_loader(config, rank=0, world=1)
    skipped: dict[str, str] = {}
    for batch in loader:
        skipped |= dict(batch.skipped)
        if batch.position >= loader.samples_per_pass:
            break
    assert skipped == {f"{shard.removesuffix('.tar')}/{key}": reason for shard, key, reason in reversed(bad)}


def test_a_shard_that_has_changed_since_starts_it_anew(tmp_path):
    patterns = [str(tmp_path / "set")]
    write(tmp_path / "set", [whole(2, seed=9 * n) for n in range(3)])
    interrupted(patterns, 2)
    write(tmp_path / "set", [[*whole(4, seed=77)]])
    told: list[str] = []
    found, _ = checked(patterns, say=told.append)
    assert told[1] == "shards have changed since then; starting from the beginning"
    assert (found.whole, found.repeats["images"].records) == (8, 8)


def test_other_settings_do_not_go_on_from_there(tmp_path):
    patterns = [str(tmp_path / "set")]
    write(tmp_path / "set", [whole(2), whole(2, seed=8)])
    interrupted(patterns, 1)
    told: list[str] = []
    found, _ = checked(patterns, SETTINGS._replace(max_pixels=100), say=told.append)
    assert told == []
    assert found.faults == {"too many pixels": 4}


def test_a_store_that_fails_again_and_again_stops_the_check(tmp_path, monkeypatch):
    write(tmp_path / "set", [whole(1)] * 20)
    calls: list[str] = []

    def fail(address: str) -> None:
        calls.append(address)
        raise StoreFailed(f"{address} could not be read")

    monkeypatch.setattr(examine, "stat", fail)
    with pytest.raises(RunStopped, match=r"what is done is kept: start again when that is mended$"):
        checked([str(tmp_path / "set")])
    assert len(calls) == checking.FAILURES


def test_too_many_to_name_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(examine, "MOST_LISTED", 2)
    write(tmp_path / "set", [[entry for i in range(5) for entry in pair(f"{i}", b"x", "y")]])
    found, bad = checked([str(tmp_path / "set")])
    assert [row[1] for row in bad] == ["0", "1"]
    assert (found.damaged, found.faults, found.unnamed) == (5, {"undecodable image": 5}, 3)


@pytest.mark.parametrize("sign", ["\U0001f431", "\x01", "\udc80"])
def test_names_of_any_signs_fit_a_line_of_the_journal(tmp_path, monkeypatch, sign):
    """A hundred thousand of emoji made a line of 98 MB, which could not be read again."""
    monkeypatch.setattr(examine, "MOST_BYTES", 2000)
    monkeypatch.setattr(journal, "LONGEST", 4000)
    keys = [f"{i:03}{sign * 20}" for i in range(200)]
    write(tmp_path / "set", [[entry for key in keys for entry in pair(key, b"x", "y")]])
    found, bad = checked([str(tmp_path / "set")])
    assert (found.damaged, found.unnamed) == (200, 200 - len(bad))
    assert [row[1] for row in bad] == keys[: len(bad)]
    assert 3 < len(bad) < 50


def test_an_index_for_fewer_extensions_counts_where_the_others_are_not(tmp_path):
    from silc.commands.shards.main import main

    paths = write(tmp_path / "set", [whole(2), [*whole(1), *pair("x", encoded(picture(9), "PNG"), "a", "png")]])
    for number, path in enumerate(paths):
        assert main(["index", path, "--images", "jpg", "--out", str(tmp_path / f"{number}")]) == 0
    named = [find([str(tmp_path / f"{number}" / "shards.manifest")]) for number in (0, 1)]
    for images, count in ((["jpg"], 1), (["JPG", "jpeg", "webp"], 1), (["jpg", "png"], 0)):
        assert len(indexed(named[0], images)) == 1
        assert len(indexed(named[1], images)) == count


def test_a_bucket_with_and_without_an_index(s3):
    from silc.commands.shards.main import main

    twice = pair("x", encoded(picture(1)), "a")
    data = [*twice, *whole(3, seed=20), *twice, *pair("bad", b"x", "y")]
    put(s3.address("00000.tar"), tars.pack(data))
    put(s3.address("00001.tar"), tars.pack(whole(2, seed=9)))
    without = checked([s3.address("")])
    assert main(["index", s3.address("")]) == 0
    beside = checked([s3.address("")])
    assert [row[1] for row in without[1]] == ["x", "bad"]
    assert [row[1] for row in beside[1]] == ["bad"]  # an index only counts what packing lost
    for found in (without[0], beside[0]):
        assert (found.samples, found.whole, found.lost, found.damaged) == (8, 6, 1, 1)
        assert found.faults == {"key comes twice": 1, "undecodable image": 1}
    assert without[0].repeats == beside[0].repeats
