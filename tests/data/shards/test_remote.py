"""Shards in a bucket or on a web server: indexed by the command, opened by a run that can still fork workers."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from silc.commands.shards.main import main
from silc.data.shards import prepare as preparing
from silc.data.shards.errors import Unreadable
from silc.data.shards.manifest import Manifest
from silc.data.shards.prepare import open_prepared, prepare
from silc.data.shards.samples import parse
from silc.data.shards.sidecar import Hashes, Offsets
from silc.errors import StoreFailed
from silc.storage import Range, fetch_apart, open_store, put, read_whole, stat
from tests.data.shards import tars
from tests.data.shards.indexed import hashes, pairs, write
from tests.storage.fixtures import Bucket
from tests.storage.servers import WebServer

ROOT = Path(__file__).resolve().parents[3]


class Done(NamedTuple):
    """How a command ended, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def index(*words: str) -> Done:
    """`silc shards index` in this process, with its own processes."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as errors:
        status = main(["index", *words])
    return Done(status, out.getvalue(), errors.getvalue())


def upload(bucket: Bucket, counts: list[int]) -> list[bytes]:
    data = [tars.pack(pairs(count, seed=100 * number)) for number, count in enumerate(counts)]
    for number, each in enumerate(data):
        put(bucket.address(f"{number:05}.tar"), each)
    return data


def start(*patterns: str, **options) -> Manifest:
    options = {"caption": "txt", "images": ["jpg"], "max_lost": 0.1} | options
    return prepare(list(patterns), say=lambda _: None, **options)


def read(manifest: Manifest) -> list[list[tuple[str, dict[str, bytes]]]]:
    """Every sample, as a worker reads it."""
    store = open_store(patience=20)
    requests = [(shard, 0, int(count)) for shard, count in enumerate(manifest.samples.tolist()) if count]
    found = []
    for (shard, _, _), offsets in zip(requests, Offsets(manifest, store).lookup(requests), strict=True):
        assert not isinstance(offsets, Unreadable)
        places = zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
        samples = store.read([Range(manifest.addresses[shard], begin, stop) for begin, stop in places])
        parsed = [parse(data) for data in samples]
        found.append([(s.key, {name: bytes(data) for name, data in s.members.items()}) for s in parsed])
    store.close()
    return found


def test_a_bucket(s3):
    data = upload(s3, [3, 40, 5])
    with pytest.raises(
        ValueError, match=r"is in a remote store and has no index .*`silc shards index s3://bucket/.*/`$"
    ):
        start(s3.address())
    done = index(s3.address(), "--jobs", "2", "--captions", "txt")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("48 samples in 3 shards")
    manifest = start(s3.address())
    assert [address.removeprefix(s3.address("")) for address in manifest.addresses] == [
        f"/0000{i}.tar" for i in range(3)
    ]
    assert list(manifest.versions) == [found.version for address in manifest.addresses if (found := stat(address))]
    assert read(manifest) == [tars.content(each).samples for each in data]
    codes = Hashes(manifest, open_store()).lookup([(1, 7, 2)])[0]
    assert codes.tolist() == [hashes(b"Thing 7  of 100"), hashes(b"Thing 8  of 100")]
    other = open_prepared([s3.address()], caption="txt", images=["jpg"])
    assert other.identity() == manifest.identity()
    assert [other.sidecar(i) for i in range(3)] == [manifest.sidecar(i) for i in range(3)]

    some = start(s3.address("0000{0,2}.tar"), hashes=True)
    assert some.samples.tolist() == [3, 5]
    with pytest.raises(ValueError, match=r"does not list .*00003\.tar"):
        start(s3.address("0000{0..3}.tar"))
    with pytest.raises(ValueError, match=r"holds no hashes of the cap captions.* --captions cap s3://"):
        start(s3.address(), caption="cap", hashes=True)

    put(s3.address("00001.tar"), tars.pack(pairs(41, seed=9)))
    put(s3.address("00003.tar"), tars.pack(pairs(2)))
    checked = index(s3.address(), "--check")
    assert checked.returncode == 1
    assert "1 shard not in the index: s3://" in checked.stdout
    assert "1 shard changed since the index was made: s3://" in checked.stdout
    mended = index(s3.address())
    assert mended.returncode == 0
    assert "50 samples" not in mended.stdout
    assert "(2 kept, 2 read)" in mended.stdout
    assert read(start(s3.address()))[1] == tars.content(tars.pack(pairs(41, seed=9))).samples
    assert index(s3.address(), "--check").stdout.endswith("is whole: 51 samples in 4 shards\n")


def test_a_bucket_and_a_folder_hold_the_same_set(s3, tmp_path):
    data = upload(s3, [3, 4])
    assert index(s3.address()).returncode == 0
    for number, each in enumerate(data):
        (tmp_path / f"{number:05}.tar").write_bytes(each)
    assert start(str(tmp_path)).identity() == start(s3.address()).identity()
    mixed = start(str(tmp_path), s3.address())
    assert mixed.samples.tolist() == [3, 4, 3, 4]
    assert read(mixed) == [tars.content(each).samples for each in data] * 2
    with pytest.raises(ValueError, match="is named twice"):
        start(s3.address(), s3.address("00000.tar"))


def test_a_web_server(web: WebServer, tmp_path):
    paths = write(tmp_path / "web" / "the set", [3, 40])
    pattern = f"{web.url}/the%20set/0000{{0..1}}.tar"
    refused = index(pattern)
    assert refused.returncode == 2
    assert "is on a web server, where nothing can be written; give a folder with --out" in refused.stderr
    done = index(pattern, "--out", str(tmp_path / "index"))
    assert done.returncode == 0, done.stderr
    manifest = start(str(tmp_path / "index"))
    assert list(manifest.addresses) == [f"{web.url}/the%20set/0000{i}.tar" for i in range(2)]
    assert read(manifest) == [tars.content(Path(path).read_bytes()).samples for path in paths]
    assert index(pattern, "--out", str(tmp_path / "index")).stdout.endswith("(2 kept)\n")

    shutil.copytree(tmp_path / "index", tmp_path / "web" / "index")
    manifest = start(f"{web.url}/index/shards.manifest")
    assert manifest.sidecar(0) == f"{web.url}/index/00000.tar.idx"
    assert read(manifest) == [tars.content(Path(path).read_bytes()).samples for path in paths]
    with pytest.raises(ValueError, match=r"has no index .*FIRST\.\.LAST.* --out FOLDER`, and name FOLDER"):
        start(pattern)


def test_a_remote_shard_is_read_in_windows_and_never_twice(web: WebServer, tmp_path):
    paths = write(tmp_path / "web", [3])
    big = [(f"{i}.{end}", os.urandom(700_000)) for i in range(30) for end in ("jpg", "txt")]
    Path(paths[0]).write_bytes(tars.pack(big))
    size = os.path.getsize(paths[0])
    done = index(f"{web.url}/00000.tar", "--out", str(tmp_path / "index"))
    assert done.returncode == 0, done.stderr
    assert web.counts["bytes"] < 1.2 * size
    assert start(str(tmp_path / "index")).samples.tolist() == [30]


def test_a_store_with_faults_is_indexed_all_the_same(faulty_s3, tmp_path):
    data = upload(faulty_s3, [30, 40])
    assert faulty_s3.server is not None
    faulty_s3.server.faults.drop = faulty_s3.server.faults.error = faulty_s3.server.faults.cut = 0.1
    done = index(faulty_s3.address())
    assert done.returncode == 0, done.stderr
    manifest = start(faulty_s3.address())
    faulty_s3.server.faults.drop = faulty_s3.server.faults.error = faulty_s3.server.faults.cut = 0
    assert read(manifest) == [tars.content(each).samples for each in data]


def test_a_bucket_that_cannot_be_reached_is_no_missing_index(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr(
        preparing, "fetch_apart", lambda address, limit, patience: fetch_apart(address, limit, patience=1.0)
    )
    with pytest.raises(StoreFailed):
        start(s3.address())


def test_the_process_that_prepares_reads_nothing_remote_itself(s3):
    """Otherwise workers that are forked from it would hang."""
    upload(s3, [3])
    assert index(s3.address()).returncode == 0
    script = (
        "import sys\n"
        "from silc.data.shards.prepare import open_prepared, prepare\n"
        "options = dict(caption='txt', images=['jpg'])\n"
        f"prepare([{s3.address()!r}], max_lost=0, **options)\n"
        f"print(open_prepared([{s3.address()!r}], **options).samples.tolist(), 'obstore' in sys.modules)\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT}/kernels"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, text=True, capture_output=True, check=True)
    said, found = done.stdout.splitlines()
    assert said == f"reading the index {s3.address('shards.manifest')}; if that fails, trying for up to 120 s"
    assert found == "[3] False"


def test_a_manifest_in_a_bucket_is_damaged(s3):
    upload(s3, [3])
    assert index(s3.address()).returncode == 0
    address = s3.address("shards.manifest")
    put(address, read_whole(address, 10**6)[:-4])
    with pytest.raises(ValueError, match="is damaged"):
        start(s3.address())
    sidecar = s3.address("00000.tar.idx")
    assert index(s3.address()).returncode == 0
    put(sidecar, np.array([0, 512, 1024, 5 * 512], "<u8").tobytes()[:-8])
    store = open_store()
    (found,) = Offsets(start(s3.address()), store).lookup([(0, 1, 2)])
    assert isinstance(found, Unreadable)
    store.close()
