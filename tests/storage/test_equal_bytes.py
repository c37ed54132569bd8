"""Every store gives the bytes of the ranges that were asked for."""

from __future__ import annotations

import dataclasses
import pickle
import random
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from silc.storage import NodeCache, Range, Stat, StoreFailed, list_tars, open_store, put, read_whole, stat
from tests.storage.servers import SHORT, Answer, Server

QUICK = dataclasses.replace(SHORT, piece=1000, bytes=5000)
SIZES = {"a.tar": 4096, "b c.tar": 777, "deep/d+1%.tar": 10_000, "empty.tar": 0}
CONTENT = {name: random.Random(name).randbytes(size) for name, size in SIZES.items()}
EXAMPLES = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

ranges = st.lists(st.tuples(st.sampled_from(sorted(SIZES)), st.integers(0, 11_000), st.integers(0, 4000)), max_size=12)


def write(folder: Path) -> None:
    for name, data in CONTENT.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(data)


@pytest.fixture(params=["local", "web", "s3", "cached"])
def address(request, tmp_path):
    """Function from a name to its address, with CONTENT in place."""
    if request.param == "local":
        write(tmp_path)
        return lambda name: str(tmp_path / name)
    if request.param in ("web", "cached"):
        server = request.getfixturevalue("web")
        write(server.folder)
        return server.address
    bucket = request.getfixturevalue("s3")
    for name, data in CONTENT.items():
        put(bucket.address(name), data)
        assert bucket.file(name).read_bytes() == data
    return bucket.address


@EXAMPLES
@given(asked=ranges)
def test_ranges_are_slices(address, request, tmp_path, asked):
    cache = None
    if "cached" in request.node.name:
        cache = NodeCache(
            str(tmp_path / "cache"), 100_000, lambda address: "" if "b%20c" in address else "v", page=1024
        )
    store = open_store(patience=5, limits=QUICK, cache=cache)
    asked = [*asked, ("a.tar", 0, 1), ("empty.tar", 0, 1)]
    wanted = [Range(address(name), start, start + length) for name, start, length in asked]
    assert store.read(wanted) == [CONTENT[name][start : start + length] for name, start, length in asked]
    store.close()
    assert store.read(wanted[:1]) == [CONTENT[name][start : start + length] for name, start, length in asked[:1]]


def test_whole_files_and_their_state(address):
    for name, data in CONTENT.items():
        found = stat(address(name))
        assert found is not None
        assert found.size == len(data)
        assert found.version
        assert read_whole(address(name), len(data)) == data
    with pytest.raises(ValueError, match=r"a\.tar has 4096 bytes; at most 4095 are read"):
        read_whole(address("a.tar"), 4095)
    assert stat(address("none.tar")) is None
    assert stat(address("deep")) is None
    with pytest.raises(ValueError, match=r"none\.tar does not exist"):
        read_whole(address("none.tar"), 10)


def test_one_read_of_several_stores(tmp_path, web, s3):
    write(tmp_path / "here")
    write(web.folder)
    put(s3.address("a.tar"), CONTENT["a.tar"])
    put(s3.address("x").replace("s3://bucket/", "s3a://other-bucket/"), b"other")
    addresses = [str(tmp_path / "here/a.tar"), web.address("a.tar"), s3.address("a.tar")] * 2
    wanted = [Range(address, 10 * i, 10 * i + 100) for i, address in enumerate(addresses)]
    wanted.append(Range(s3.address("x").replace("s3://bucket/", "s3a://other-bucket/"), 1, 9))
    expected = [CONTENT["a.tar"][10 * i : 10 * i + 100] for i in range(6)]
    assert open_store(patience=5, limits=QUICK).read(wanted) == [*expected, b"ther"]


def test_a_version_changes_with_the_contents(tmp_path, web, s3):
    for place in (lambda name: str(tmp_path / name), s3.address):
        put(place("x"), b"one")
        first = stat(place("x"))
        put(place("x"), b"two")
        second = stat(place("x"))
        assert isinstance(first, Stat)
        assert isinstance(second, Stat)
        assert first.version != second.version
        assert first.version.isprintable()
    (web.folder / "x").write_bytes(b"x")
    web.etags["x"] = "one"
    first = stat(web.address("x"))
    web.etags["x"] = "t" * 5000
    second = stat(web.address("x"))
    assert first == Stat(1, "one")
    assert second is not None
    assert second.version not in ("one", "")
    assert len(second.version) <= 200


def test_tars_are_listed(tmp_path, s3):
    for place in (lambda name: str(tmp_path / "set" / name), s3.address):
        for name in ("b.tar", "a b.tar", "c.tar.idx", "sub/d.tar", ".hidden.tar"):
            put(place(name), b"x")
        folder = place("b.tar").rpartition("/")[0]
        assert list_tars(folder) == list_tars(folder + "/") == [place("a b.tar"), place("b.tar")]
        assert list_tars(place("none")) == []
    with pytest.raises(ValueError, match="cannot be listed"):
        list_tars("http://127.0.0.1:1/x")


class Pages(Server):
    """Answers a listing in pages of two names, as a store does in pages of a thousand."""

    names = ("set/1.tar", "set/2.tar", "set/3.tar", "set/4.tar", "set/5.tar")

    def answer(self, method, path, headers, body):
        query = parse_qs(urlsplit(path).query)
        assert query["prefix"] == ["set/"]
        assert query["delimiter"] == ["/"]
        first = int(query.get("continuation-token", ["0"])[0])
        page = self.names[first : first + 2]
        more = first + 2 < len(self.names)
        token = f"<NextContinuationToken>{first + 2}</NextContinuationToken>" if more else ""
        item = "<Contents><Key>{}</Key><Size>1</Size><LastModified>2026-11-25T00:00:00.000Z</LastModified></Contents>"
        text = f"<ListBucketResult>{token}{''.join(map(item.format, page))}</ListBucketResult>".encode()
        return Answer(200, {"Content-Length": str(len(text))}, text)


def test_a_listing_has_pages(s3, monkeypatch):
    with Pages() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        assert list_tars("s3://bucket/set") == [f"s3://bucket/set/{i}.tar" for i in range(1, 6)]
        assert server.counts["GET"] == 3


def test_a_web_server_has_names_percent_encoded(web):
    (web.folder / "ä ?#%.tar").write_bytes(b"0123456789")
    address = f"{web.url}/%C3%A4%20%3F%23%25.tar"
    assert open_store(patience=5, limits=QUICK).read([Range(address, 2, 5)]) == [b"234"]
    assert stat(address) == stat(web.address("ä ?#%.tar"))


def test_what_cannot_be_written_is_said(tmp_path, web):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        put(str(tmp_path / "file/x"), b"x")
    with pytest.raises(StoreFailed, match=r"could not be written \(4 tries, last: 405 Method Not Allowed\)"):
        put(web.address("x"), b"x", limits=QUICK)


def test_an_unused_store_can_be_pickled(tmp_path):
    write(tmp_path)
    store = open_store(patience=5, limits=QUICK)
    wanted = [Range(str(tmp_path / "a.tar"), 5, 10)]
    assert pickle.loads(pickle.dumps(store)).read(wanted) == store.read(wanted) == [CONTENT["a.tar"][5:10]]
    assert pickle.loads(pickle.dumps(store)).read(wanted) == store.read(wanted)  # a used one too
