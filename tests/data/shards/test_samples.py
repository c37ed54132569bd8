"""scan finds the samples that a slow, obvious reading finds, and says what is lost; parse gives their bytes."""

from __future__ import annotations

import io
import itertools
import tarfile
import tracemalloc
from collections import Counter

import numpy as np
import pytest
import webdataset as wds
from hypothesis import given, settings
from hypothesis import strategies as st

from silc.data.shards import Scan, Unreadable, caption_hash, first_key, parse, runs, samples, scan, scan_file
from silc.data.shards.runs import KINDS, MAX_MEMBERS, REST
from tests.data.shards.tars import FORMATS, IMAGES, KEYS, append, content, entries, files, pack


def scanned(data: bytes, **options) -> Scan:
    return scan(lambda start, stop: data[start:stop], len(data), "x.tar", images=IMAGES, **options)


def ranges(data: bytes, found: Scan) -> list[bytes]:
    return [data[start:stop] for start, stop in itertools.pairwise(found.starts.tolist())]


def read(data: bytes, found: Scan) -> list[tuple[str, dict[str, bytes]]]:
    """(key, extension -> bytes) of each sample."""
    parsed = [parse(part) for part in ranges(data, found)]
    return [(sample.key, {name: bytes(view) for name, view in sample.members.items()}) for sample in parsed]


@given(found=entries(), form=st.sampled_from(FORMATS))
@settings(max_examples=150, deadline=None)
def test_agrees_with_an_obvious_reading(found, form):
    data = pack(found, form)
    scan, expected = scanned(data), content(data)
    assert read(data, scan) == expected.samples
    assert scan.lost == expected.lost
    assert scan.extensions == Counter(extension for _, extension, _ in files(data))
    assert scan.size == len(data)


@given(
    found=entries(keys=["a", "b"], extensions=["jpg", "txt"]), again=entries(keys=["a", "b"], extensions=["jpg", "txt"])
)
@settings(max_examples=80, deadline=None)
def test_a_sample_is_what_unpacking_the_tar_leaves(found, again):
    """Never a mixture of versions, nor a part: what is not so is counted."""
    data = pack(found + again)
    unpacked: dict[str, dict[str, bytes]] = {}
    times: Counter[tuple[str, str]] = Counter()
    for key, extension, bytes_ in files(data):
        unpacked.setdefault(key, {})[extension] = bytes_
        times[key, extension] += 1
    scan = scanned(data)
    kept = dict(read(data, scan))
    assert len(kept) == len(scan)
    for key, members in kept.items():
        assert members == unpacked[key]
    assert len(kept) + sum(scan.lost.values()) >= sum(max(times[key, e] for e in unpacked[key]) for key in unpacked)


@st.composite
def well_formed(draw: st.DrawFn) -> bytes:
    keys = draw(st.lists(st.sampled_from(KEYS), unique=True, max_size=6))
    extensions = st.lists(st.sampled_from(["jpg", "PNG", "txt", "json", "mask.png"]), unique=True, min_size=1)
    names = [(f"{key}.{e}", f"{key} {e}".encode() * 99) for key in keys for e in draw(extensions)]
    return pack(names, draw(st.sampled_from(FORMATS)))


@given(data=well_formed())
@settings(max_examples=100, deadline=None)
def test_agrees_with_webdataset(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("tars") / "x.tar"
    path.write_bytes(data)
    theirs = [
        (sample["__key__"], {name: value for name, value in sample.items() if not name.startswith("__")})
        for sample in wds.WebDataset(str(path), shardshuffle=False, empty_check=False)
    ]
    assert read(data, scanned(data)) == theirs
    assert not scanned(data).lost


def pairs(numbers, form: int = tarfile.USTAR_FORMAT, mark: str = "") -> list[tuple[str, bytes]]:
    return [(f"s{n}.{ext}", f"{ext} {n}{mark}".encode()) for n in numbers for ext in ("jpg", "txt")]


def test_updates_with_tar_r(tmp_path):
    """Of a pair that was appended once and twice, the last holds."""
    path = tmp_path / "x.tar"
    path.write_bytes(pack(pairs(range(20))))
    append(path, pairs([3, 7], mark=" new"))
    append(path, pairs([7], mark=" newest"))
    data = path.read_bytes()
    found = scanned(data)
    kept = dict(read(data, found))
    assert found.lost == {"key comes twice": 3}
    assert len(kept) == len(found) == 20
    assert [kept[f"s{n}"]["txt"] for n in (2, 3, 7)] == [b"txt 2", b"txt 3 new", b"txt 7 newest"]
    assert list(kept)[-2:] == ["s3", "s7"]  # in the order of the file


def test_an_update_of_one_member_alone_is_lost_not_mixed():
    data = pack([*pairs(range(10)), ("s4.txt", b"corrected")])
    found = scanned(data)
    assert found.lost == {"key comes twice": 1, "members not adjacent": 1}
    assert "s4" not in dict(read(data, found))


@pytest.mark.parametrize("form", FORMATS)
def test_pictures_and_captions_apart(form):
    images = [(f"s{n}.jpg", b"jpg") for n in range(30)]
    captions = [(f"s{n}.txt", b"txt") for n in range(30)]
    found = scanned(pack(images + captions, form))
    assert (len(found), found.lost) == (0, {"members not adjacent": 30})
    data = pack([*pairs(range(30, 40)), *images, *captions], form)  # in parts only
    found = scanned(data)
    assert [key for key, _ in read(data, found)] == [f"s{n}" for n in range(30, 40)]
    assert found.lost == {"members not adjacent": 30}
    assert found.starts[-1] <= 10 * 8 * 1024  # what follows the last sample is no part of it


@pytest.mark.parametrize("pairs", [2, 500, 3000])
def test_names_with_a_dot_too_many(pairs):
    names = [(f"IMG.{n:05}.{ext}", b"x") for n in range(pairs) for ext in ("jpg", "txt")]
    good = [("good.jpg", b"x"), ("good.txt", b"x")]
    found = scanned(pack(good + names))
    assert (len(found), found.lost) == (1, {"dot in the name": pairs})
    assert len(found.extensions) <= KINDS + 1
    assert sum(found.extensions.values()) == 2 * pairs + 2
    assert found.extensions["jpg"] == found.extensions["txt"] == 1


def test_images_that_belong_to_another_are_no_samples():
    members = ["jpg", "txt", "mask.png", "depth.png", "a.b.png"]
    data = pack([(f"s{n}.{e}", e.encode()) for n in range(3) for e in members])
    found = scanned(data)
    assert (len(found), found.lost) == (3, {})
    assert [set(members) for _, members in read(data, found)] == [set(members)] * 3


def test_a_sample_of_too_many_members():
    names = [(f"a.{n}", b"x") for n in range(MAX_MEMBERS + 1)]
    data = pack([*names, ("b.jpg", b"x")])
    found = scanned(data)
    assert (found.lost, [key for key, _ in read(data, found)]) == ({"too many members": 1}, ["b"])
    with pytest.raises(Unreadable, match=r"^too many members$"):
        parse(data)
    data = pack(names[1:])
    assert len(read(data, scanned(data))[0][1]) == MAX_MEMBERS


def test_an_extension_that_no_file_system_allows_is_none():
    data = pack([*pairs([1]), ("s2." + "x" * 256, b"x"), ("s3." + "x" * 255, b"x")], tarfile.GNU_FORMAT)
    assert [key for key, _ in read(data, scanned(data))] == ["s1", "s3"]


def test_a_cut_sample_replaces_no_other():
    data = pack([*pairs(range(3)), ("s1.jpg", b"x"), ("s1.txt", b"y" * 5000)])
    found = scanned(data[:-12_000])  # inside the last payload
    assert dict(read(data, found))["s1"] == {"jpg": b"jpg 1", "txt": b"txt 1"}
    assert (len(found), found.lost) == (3, {"key comes twice": 1})


def test_dotted_extensions_leave_room_for_others():
    """Members that stand apart are told from versions, whatever else is in the shard."""
    odd = [(f"{n}.{n}.e", b"x") for n in range(200)]
    apart = [(f"s{n}.{ext}", b"x") for ext in ("jpg", "txt") for n in range(9)]
    found = scanned(pack(odd + apart))
    assert (len(found), found.lost) == (200, {"members not adjacent": 9})
    assert found.extensions["jpg"] == found.extensions["txt"] == 9


def test_few_sets_of_extensions_are_remembered(monkeypatch):
    monkeypatch.setattr(runs, "_SHAPES", 3)
    collected = runs.Runs(IMAGES, captions=False)
    for n in range(300):
        for extension in (b"jpg", b"e%d" % (n % 7)):
            collected.add(b"%d" % n, extension, n)
    collected.close()
    assert len(collected._shapes) <= 3
    found = collected.result(300, cut=False)
    assert found.extensions == {"jpg": 300} | {f"e{n}": 43 - (n == 6) for n in range(7)}


def test_many_extensions_are_counted_together():
    data = pack([(f"{n}.e{n}", b"x") for n in range(200)])
    found = scanned(data)
    assert len(found.extensions) == KINDS + 1
    assert found.extensions[REST] == 200 - KINDS
    assert (len(found), found.lost) == (200, {})


def test_a_key_that_comes_twice_where_extensions_are_not_told_apart():
    data = pack([*((f"{n}.e{n}", b"x") for n in range(100)), *pairs([1, 1])])
    assert scanned(data).lost == {"key comes twice": 1}


@pytest.mark.parametrize("form", FORMATS)
def test_starts_are_where_the_first_headers_are(form):
    deep = "folder/" * 13 if form == tarfile.USTAR_FORMAT else "folder/" * 40  # with long names or pax records before
    data = pack([(f"{deep}{n}.{ext}", b"x" * 700) for n in range(5) for ext in ("jpg", "txt")], form)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = tar.getmembers()
    last = members[-1].offset_data + 1024
    assert scanned(data).starts.tolist() == [*(member.offset for member in members[::2]), last]
    assert scanned(data).starts.dtype == np.uint64


def test_what_was_left_out_is_ignored_behind_a_sample():
    data = pack([*pairs([1]), ("s2.jpg", b"x"), *pairs([3]), ("s2.txt", b"x"), ("README", b"x"), *pairs([4])])
    assert [key for key, _ in read(data, scanned(data))] == ["s1", "s3", "s4"]


def test_captions_hash_alike_where_case_and_space_differ():
    captions = [
        b"A red  Bird",
        b" a RED bird\n",
        b"a red bird!",
        b"",
        None,
        b"\xff",
        b" \n",
        "Stra\u00dfe".encode(),
        b"STRASSE",
    ]
    names = []
    for n, caption in enumerate(captions):
        names += [(f"s{n}.jpg", b"x" * 5000)] + ([] if caption is None else [(f"s{n}.TXT", caption)])
    found = scanned(pack(names), caption="txt")
    hashes = found.hashes.tolist()
    assert found.hashes.dtype == np.dtype("<u8")
    assert hashes[0] == hashes[1]
    assert hashes[7] == hashes[8]
    assert len(set(hashes)) == len(captions) - 2
    expected = [caption_hash(caption, b"s%d" % n) for n, caption in enumerate(captions)]
    assert found.hashes.tobytes() == b"".join(expected)


def test_the_hash_of_a_caption_is_fixed():
    """It is written to files: first 8 bytes as `b2sum -l 64` has them."""
    assert caption_hash(b"A  red\nbird", b"k").hex() == caption_hash(b"a red bird", b"").hex() == "558cbf4134a836f5"
    assert caption_hash(b"", b"k").hex() == caption_hash(None, b"k").hex() == "33f448410a2addad"


def test_hashes_belong_to_the_samples_that_are_left():
    data = pack([*pairs(range(4)), *pairs([1], mark=" new"), ("s2.txt", b"apart")])
    found = scanned(data, caption="txt")
    expected = [caption_hash(members["txt"], key.encode()) for key, members in read(data, found)]
    assert found.hashes.tobytes() == b"".join(expected)
    data = pack([("a.txt", b"first"), ("a.txt", b"second"), ("b.txt", b"x" * (samples.MAX_CAPTION + 1))])
    assert scanned(data, caption="txt").hashes.tobytes() == caption_hash(b"second", b"a") + caption_hash(None, b"b")


def test_members_are_views():
    data = pack([("a.jpg", b"x" * 5000), ("a.txt", b"words")])
    sample = parse(data)
    assert all(view.obj is data for view in sample.members.values())
    assert sample.column(["png", "jpg"]) == b"x" * 5000
    assert sample.column(["png"]) is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: b"", "no sample where the index points"),
        (lambda data: bytes(2048), "no sample where the index points"),
        (lambda data: data[512:], "no sample where the index points"),
        (lambda data: data[:300], "cut off by the end of a damaged shard"),
        (lambda data: data[:800], "cut off by the end of a damaged shard"),
        (lambda data: data[:1536] + b"?" + data[1537:], "a damaged header"),
        (lambda data: pack([("README", b"x")]), "no sample where the index points"),
    ],
)
def test_bytes_that_are_no_sample(change, says):
    data = pack([("a.jpg", b"x" * 600), ("a.txt", b"y" * 600)])
    with pytest.raises(Unreadable, match=f"^{says}$"):
        parse(change(data))


def test_the_key_of_a_cut_sample():
    def key(data: bytes) -> str | None:
        return first_key(lambda start, stop: data[start:stop], len(data))

    data = pack([("d/a.jpg", b"x" * 600)], tarfile.PAX_FORMAT)
    assert key(data) == "d/a"
    assert key(data[: data.index(b"x" * 9) + 9]) == "d/a"
    assert key(data[:1000]) is None
    assert key(b"?" * 5000) is None


def test_a_file_is_read_forward_and_little_of_it(tmp_path):
    data = pack([(f"s{n}.jpg", b"x" * 50_000) for n in range(50)])
    asked = []

    def source(start: int, stop: int) -> bytes:
        asked.append((start, stop))
        return data[start:stop]

    assert len(scan(source, len(data), "x.tar")) == 50
    assert asked == sorted(asked)
    assert sum(stop - start for start, stop in asked) < len(data) / 5
    assert len(asked) < 60


def test_memory_grows_by_a_few_bytes_a_sample():
    one = pack([("000000.jpg", b"")])[:512]

    def source(start: int, stop: int) -> bytes:
        return b"".join(header(at // 512) for at in range(start // 512 * 512, stop, 512))[start % 512 :][: stop - start]

    def header(number: int) -> bytes:
        name = b"%06d" % number
        total = sum(one[:148]) + sum(one[156:]) + 256 + sum(name) - 6 * 48
        return name + one[6:148] + b"%06o\0 " % total + one[156:]

    count = 8_000
    tracemalloc.start()
    found = scan(source, count * 512, "x.tar", images=IMAGES)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(found), found.lost) == (count, {})
    assert peak < 200 * count


def test_a_shard_of_too_many_samples(monkeypatch):
    monkeypatch.setattr(samples, "MAX_SAMPLES", 5)
    assert len(scanned(pack(pairs(range(5))))) == 5
    with pytest.raises(ValueError, match=r"^shard x\.tar has more than 5 samples"):
        scanned(pack(pairs(range(6))))


def test_what_is_no_regular_file(tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        scan_file(str(tmp_path))
