"""What is written is read again, from any folder; what is not whole, or leads elsewhere, is refused."""

from __future__ import annotations

import json
import tracemalloc
from hashlib import blake2b, sha256

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silc.data.shards.manifest import KINDS, Manifest, Row, capped, joined, totals
from silc.data.shards.manifest_file import line, packed, parse_rows, parsed, repeated
from silc.data.shards.texts import Texts

WORDS = st.text(st.characters(min_codepoint=33, exclude_characters="/\\", exclude_categories=("C", "Z")), min_size=1)
NAMES = (
    st.lists(WORDS, min_size=1, max_size=3).map("/".join).filter(lambda name: not {".", ".."} & set(name.split("/")))
)
COUNTS = st.dictionaries(st.text(max_size=8), st.integers(0, 10**9), max_size=3)


@st.composite
def rows(draw) -> list[Row]:
    names = draw(st.lists(NAMES.map(lambda name: f"{name}.tar"), unique=True, max_size=12))
    made = []
    for name in names:
        samples = draw(st.integers(0, 10**6))
        size = draw(st.integers(samples * 512, 2**40))
        details = json.dumps({"has": draw(COUNTS), "lost": draw(COUNTS)})
        version = draw(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40))
        made.append(Row(name, samples, size, version, details))
    return made


def some(count: int = 3, **changes) -> list[Row]:
    details = json.dumps({"has": {"jpg": 10, "txt": 10}})
    return [Row(f"{i:05}.tar", 10, 20480, str(10**18 + i), details)._replace(**changes) for i in range(count)]


def file(made: list[Row], base: str | None = None, caption: str | None = None) -> bytes:
    return packed(made, base=base, caption=caption, images=["jpg"])


@given(rows(), st.sampled_from([None, "/data/set", "/", "s3://bucket/set"]), st.sampled_from([None, "txt"]))
@settings(deadline=None)
def test_a_manifest_is_read_as_it_was_written(made, base, caption):
    manifest = parsed(file(made, base, caption), "/other/shards.manifest")
    folder = "/other/" if base is None else base.rstrip("/") + "/"
    assert list(manifest.addresses) == [folder + row.name for row in made]
    assert manifest.samples.tolist() == [row.samples for row in made]
    assert manifest.sizes.tolist() == [row.size for row in made]
    assert list(manifest.versions) == [row.version for row in made]
    assert [row._replace(name=row.name.removeprefix(folder)) for row in manifest.rows()] == made
    assert manifest.caption == caption
    assert manifest.images == ("jpg",)
    assert sum(manifest.lost.values()) == sum(sum(json.loads(row.details)["lost"].values()) for row in made)
    assert sum(manifest.extensions.values()) == sum(sum(json.loads(row.details)["has"].values()) for row in made)
    for i, row in enumerate(made):
        assert manifest.sidecar(i) == f"/other/{row.name}.idx"
        assert manifest.hashes(i) == f"/other/{row.name}.cap"
    assert parse_rows("".join(map(line, made)).encode()) == made


def test_a_manifest_moves_with_its_folder():
    data = file(some())
    for folder in ("/data/pairs/", "s3://bucket/deep/folder/", "https://host/", ""):
        manifest = parsed(data, f"{folder}shards.manifest")
        assert manifest.addresses[1] == f"{folder}00001.tar"
        assert manifest.sidecar(1) == f"{folder}00001.tar.idx"


def test_the_identity_is_of_names_samples_and_bytes_in_order():
    plain = "".join(f"{row.name}\t{row.samples}\t{row.size}\n" for row in some())
    identity = parsed(file(some()), "/a/shards.manifest").identity()
    assert identity == sha256(plain.encode()).hexdigest()
    for base, address in ((None, "s3://b/c/x.manifest"), ("/elsewhere", "/index/shards.manifest")):
        assert parsed(file(some(version="other"), base), address).identity() == identity
    assert parsed(file(some()[::-1]), "/a/shards.manifest").identity() != identity
    for changes in ({"samples": 9}, {"size": 30720}):
        other = [*some()[:2], some()[2]._replace(**changes)]
        assert parsed(file(other), "/a/shards.manifest").identity() != identity


def test_a_percent_sign_of_a_web_address_is_part_of_the_same_name():
    local = [some(1)[0]._replace(name="a b.tar")]
    remote = [some(1)[0]._replace(name="a%20b.tar")]
    there = parsed(file(remote), "https://host/set/shards.manifest")
    assert there.identity() == parsed(file(local), "/data/shards.manifest").identity()


def test_joined_manifests_keep_their_sidecars_apart():
    first = parsed(file(some(), caption="txt"), "/a/shards.manifest")
    second = parsed(file(some(2), base="s3://bucket/b", caption="txt"), "/index/shards.manifest")
    both = joined([first, second, first.select(np.array([2, 0]))])
    assert [both.addresses[i] for i in (0, 3, 5, 6)] == [
        "/a/00000.tar",
        "s3://bucket/b/00000.tar",
        "/a/00002.tar",
        "/a/00000.tar",
    ]
    sidecars = [both.sidecar(i) for i in range(len(both))]
    assert sidecars == [
        *(f"/a/0000{i}.tar.idx" for i in range(3)),
        *(f"/index/0000{i}.tar.idx" for i in range(2)),
        *(f"/a/0000{i}.tar.idx" for i in (2, 0)),
    ]
    assert both.caption == "txt"
    assert both.samples.tolist() == [10] * 7
    assert both.extensions == {"jpg": 70, "txt": 70}
    assert joined([first, parsed(file(some()), "/c/shards.manifest")]).caption is None


@given(st.lists(st.integers(0, 6), unique=True))
def test_some_shards_of_a_manifest(chosen):
    made = [
        row._replace(samples=i, details=json.dumps({"has": {"jpg": i}, "lost": {"dot in the name": i}}))
        for i, row in enumerate(some(4))
    ]
    whole = joined([parsed(file(made), "/a/x.manifest"), parsed(file(some(3), "/b"), "/c/x.manifest")])
    part = whole.select(np.array(chosen, np.int64))
    assert list(part.addresses) == [whole.addresses[i] for i in chosen]
    assert list(part.versions) == [whole.versions[i] for i in chosen]
    assert part.samples.tolist() == [int(whole.samples[i]) for i in chosen]
    assert [part.sidecar(i) for i in range(len(part))] == [whole.sidecar(i) for i in chosen]
    assert part.lost.get("dot in the name", 0) == sum(i for i in chosen if i < 4)
    assert part.extensions.get("jpg", 0) == sum(i if i < 4 else 10 for i in chosen)


DAMAGES = {
    "cut": lambda data: data[:-5],
    "a line gone": lambda data: data[: data.rindex(b"00002.tar")],
    "a digit changed": lambda data: data.replace(b"20480\t", b"20481\t", 1),
    "a line twice": lambda data: data + data[data.rindex(b"00002.tar") :],
    "empty": lambda data: b"",
    "another file": lambda data: b"00000.tar\n00001.tar\n",
    "no first line": lambda data: b"silc-shards 1 " + b"[" * 10**6,
    "deep": lambda data: b"silc-shards 1 " + b"[" * 10**5 + b"]" * 10**5 + b"\n",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_manifest_is_refused_with_the_way_out(damage):
    with pytest.raises(ValueError, match=r"^/a/shards\.manifest .*silc shards index") as refused:
        parsed(DAMAGES[damage](file(some())), "/a/shards.manifest")
    assert len(str(refused.value)) < 600


def test_a_later_format_is_refused():
    with pytest.raises(ValueError, match="has format 2, this version of silc reads format 1"):
        parsed(file(some()).replace(b"silc-shards 1", b"silc-shards 2", 1), "/a/shards.manifest")


def signed(head: dict, body: bytes) -> bytes:
    """A file whose rows are those it states, by whoever made it."""
    head = {"shards": body.count(b"\n"), "samples": 0, "bytes": 0, "base": None, "caption": None} | head
    head = {"images": [], "extensions": {}, "lost": {}, "digest": blake2b(body, digest_size=16).hexdigest()} | head
    return b"silc-shards 1 " + json.dumps(head).encode() + b"\n" + body


ELSEWHERE = ["", "/etc/passwd", "../x.tar", "a/../../x.tar", "a//b.tar", ".", "a/.", "s3://other/x.tar"]
BREAKING = ["a\rb.tar", "a\x1b[1m.tar", "a\u2028b.tar", "a\x85b.tar", "x" * 1025]


@pytest.mark.parametrize("name", [*ELSEWHERE, *BREAKING])
def test_a_name_that_leads_elsewhere_or_breaks_a_line_is_refused(name):
    with pytest.raises(ValueError, match=r"no name of a shard|column is longer"):
        parsed(signed({}, f"{name}\t0\t0\t\t{{}}\n".encode()), "/a/shards.manifest")
    with pytest.raises(ValueError, match="rename the file"):
        packed([Row(name, 0, 0, "", "{}")], base=None, caption=None, images=[])


NUMBERS, RANGE, COLUMNS = "a column of numbers holds", "a number is out of range", "a line has not 5 columns"
ODD_ROWS = [
    ("a.tar\t1\t100\t\t{}", RANGE),  # fewer bytes than a header
    (f"a.tar\t1\t{2**51}\t\t{{}}", RANGE),
    ("a.tar\t-1\t1024\t\t{}", NUMBERS),
    ("a.tar\t1_0\t10240\t\t{}", NUMBERS),
    ("a.tar\t\t1024\t\t{}", NUMBERS),
    ("a.tar\t\u0661\t1024\t\t{}", NUMBERS),
    (f"a.tar\t1\t{10**30}\t\t{{}}", NUMBERS),
    ("a.tar\t1\t1024\t{}", COLUMNS),
    ("a.tar\t1\t1024\t\t{}\t", COLUMNS),
    ("a.tar\t1\t1024\n\t{}", COLUMNS),
    ("a.tar\t1\t1024\t\t{}\n\t", COLUMNS),
    ("a.tar\t1\t1024\t\x01\t{}", "unprintable"),
    ("a.tar\t1\t1024\t\t\xff", "unprintable"),
    (f"a.tar\t1\t1024\t\t{' ' * 20000}", "longer than 16384 bytes"),
    (f"a.tar\t1\t1024\t{'v' * 300}\t{{}}", "longer than 256 bytes"),
    ("a.tar\t1\t1024\t\t{}\na.tar\t0\t0\t\t{}", r"/a/a\.tar stands in it twice"),
]


@pytest.mark.parametrize(("row", "says"), ODD_ROWS)
def test_a_row_that_is_none_is_refused(row, says):
    with pytest.raises(ValueError, match=rf"^/a/shards\.manifest is damaged: .*{says}.*silc shards index"):
        parsed(signed({"samples": 1}, f"{row}\n".encode()), "/a/shards.manifest")


def test_a_last_line_that_is_cut_is_refused():
    with pytest.raises(ValueError, match="the last line is cut"):
        parsed(signed({}, b"a.tar\t0\t0\t\t{}"), "/a/shards.manifest")


@pytest.mark.parametrize(
    "head",
    [
        {"shards": 2},
        {"samples": 7},
        {"samples": True},
        {"base": "relative"},
        {"base": "pipe:rm -rf x"},
        {"base": 7},
        {"base": "/a\nb"},
        {"caption": ["txt"]},
        {"images": 3},
        {"images": [3]},
        {"extensions": {"jpg": -1}},
        {"extensions": {"jpg": "many"}},
        {"lost": [1]},
        {"digest": None},
    ],
)
def test_a_first_line_that_is_wrong_is_refused(head):
    with pytest.raises(ValueError, match=r"^/a/shards\.manifest"):
        parsed(signed(head, b"a.tar\t0\t0\t\t{}\n"), "/a/shards.manifest")


def test_credentials_in_a_base_are_refused():
    with pytest.raises(ValueError, match="user name or password") as refused:
        parsed(signed({"base": "https://me:secret@host/x"}, b""), "/a/shards.manifest")
    assert "secret" not in str(refused.value)


def test_rows_of_a_list_that_is_still_written_to():
    made = some()
    text = "".join(map(line, made)).encode()
    assert parse_rows(text[:-3]) == made[:2]
    assert parse_rows(b"garbage\n" + text + b"x\t1") == made
    assert parse_rows(text.replace(b'"has"', b'"has', 1)) == made[1:]


def test_many_extensions_take_bounded_room():
    details = (json.dumps({"has": {f"{i}.{k}.jpg": 1 for k in range(60)} | {"txt": 100}}) for i in range(500))
    tracemalloc.start()
    extensions, _ = totals(details)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 500_000
    assert len(extensions) == KINDS + 1
    assert extensions["txt"] == 500 * 100
    assert sum(extensions.values()) == 500 * 160
    assert capped({"a": 1, "...": 5, "b": 9}, 1) == {"b": 9, "...": 6}


def large(count: int) -> Manifest:
    made = [Row(f"{i:06}.tar", 10**4, 305152000, f'"{i:032x}-5"', '{"has": {"jpg": 10000}}') for i in range(count)]
    return parsed(packed(made, base=None, caption=None, images=[]), "s3://bucket/laion/shards.manifest")


def test_a_large_manifest_takes_little_memory():
    tracemalloc.start()
    manifest = large(20_000)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(manifest) == 20_000
    assert held < 200 * 20_000  # bytes: 30 MB for 150,000 shards


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=6), max_size=30), st.data())
def test_texts_are_a_sequence(items, data):
    texts = Texts.of(items)
    assert list(texts) == items
    assert texts == items
    assert [texts[i] for i in range(-len(items), len(items))] == items * 2
    chosen = data.draw(st.lists(st.integers(0, len(items) - 1))) if items else []
    assert list(texts.take(np.array(chosen, np.int64))) == [items[i] for i in chosen]
    assert list(texts[1:4]) == items[1:4]
    assert list(Texts.joined([texts, texts[::-1]])) == items + items[::-1]
    expected = next((item for i, item in enumerate(items) if item in items[:i]), None)
    assert repeated(texts) == expected
    with pytest.raises(IndexError):
        texts[len(items)]
    assert len(texts) == len(items)


def test_names_that_are_not_utf_8_stay_as_they_are():
    name = b"caf\xe9.tar".decode("utf-8", "surrogateescape")
    assert Texts.of([name])[0] == name
