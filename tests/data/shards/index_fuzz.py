"""Sidecars and manifests that are damaged at random: read without a crash, in bounded time, and never trusted."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from silc.data.shards.errors import Unreadable
from silc.data.shards.manifest import Manifest, Row
from silc.data.shards.manifest_file import packed, parse_rows, parsed
from silc.data.shards.sidecar import Hashes, Offsets, hashes_of, offsets_of
from silc.storage import Range

SIZE = 512 * 5000  # bytes of the tar that the sidecars are of
SAMPLES = 1000
TEXTS = (b"\t", b"\n", b"..", b"/", b"\x00", b"-1", b"99999999999999999", b"{}", b'{"lost": {"x": 1e309}}', b"\xff")


class Memory:
    """A store of bytes in memory that counts its reads."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files, self.reads, self.ranges = files, 0, 0

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        self.reads, self.ranges = self.reads + 1, self.ranges + len(ranges)
        return [self.files[address][start:stop] for address, start, stop in ranges]

    def close(self) -> None:
        """Nothing is open."""


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one to four changes: overwritten, inserted, removed, moved, cut or doubled."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randrange(len(changed) + 1), rng.choice((1, 1, 8, 64))
        kind = rng.randrange(6)
        if kind == 0:
            changed[at : at + length] = rng.randbytes(length)
        elif kind == 1:
            changed[at:at] = rng.choice(TEXTS)
        elif kind == 2:
            del changed[at : at + length]
        elif kind == 3:
            other = rng.randrange(len(changed) + 1)
            changed[at : at + length] = changed[other : other + length]
        elif kind == 4:
            del changed[at:]
        else:
            changed += changed[at : at + 4096]
    return bytes(changed)


def signed(data: bytes) -> bytes:
    """A manifest whose digest and counts are those of its rows, as whoever wrote it would have them."""
    head, _, body = data.partition(b"\n")
    try:
        fields = json.loads(head[len(b"silc-shards 1 ") :])
        fields["digest"], fields["shards"] = blake2b(body, digest_size=16).hexdigest(), body.count(b"\n")
        fields["samples"] = sum(int(line.split(b"\t")[1]) for line in body.splitlines())
    except (ValueError, IndexError, TypeError):
        return data
    return b"silc-shards 1 " + json.dumps(fields).encode() + b"\n" + body


def check_manifest(manifest: Manifest) -> None:
    """What holds for every manifest that is accepted."""
    assert (manifest.samples >= 0).all()
    assert (manifest.samples * 512 <= manifest.sizes).all()
    for address in manifest.addresses:
        name = address.removeprefix("/a/b/")
        assert address != name
        assert not {"", ".", ".."} & set(name.split("/"))
        assert not any(ord(sign) < 32 for sign in name)
    assert len(set(manifest.addresses)) == len(manifest)
    manifest.identity()


def _refused(what: str, error: ValueError) -> str:
    assert len(str(error)) < 2000
    return f"{what} refused"


def _manifest(rng: random.Random) -> str:
    rows = [
        Row(f"{i}/{i:05}.tar", i, 512 * i + 1024, str(i), json.dumps({"has": {"jpg": i}, "lost": {"a b": i}}))
        for i in range(rng.randint(0, 40))
    ]
    data = mutated(packed(rows, base=None, caption="txt", images=["jpg"]), rng)
    if rng.random() < 0.6:
        data = signed(data)
    parse_rows(data)
    try:
        check_manifest(parsed(data, "/a/b/x.manifest"))
    except ValueError as error:
        return _refused("manifests", error)
    return "manifests accepted"


def _sidecar(rng: random.Random) -> str:
    offsets = np.sort(np.array(rng.sample(range(SIZE // 512), SAMPLES + 1), np.uint64)) * np.uint64(512)
    hashes = np.frombuffer(rng.randbytes(8 * SAMPLES), np.uint64)
    data, caps = mutated(offsets.tobytes(), rng), mutated(hashes.tobytes(), rng)
    row = Row("x.tar", SAMPLES, SIZE, "1", "{}")
    manifest = parsed(packed([row], base=None, caption="txt", images=[]), "/a/shards.manifest")
    store = Memory({"/a/x.tar.idx": data, "/a/x.tar.cap": caps})
    first = rng.randrange(SAMPLES)
    request = (0, first, rng.randint(1, SAMPLES - first))
    (found,) = Offsets(manifest, store).lookup([request])
    (codes,) = Hashes(manifest, store).lookup([request])
    if not isinstance(codes, Unreadable):
        assert len(codes) == request[2]
    if not isinstance(found, Unreadable):
        assert len(found) == request[2] + 1
        assert (np.diff(found.astype(np.int64)) > 0).all()
        assert int(found[-1]) <= SIZE
    try:
        whole = offsets_of(data, SIZE, "x.tar")
        assert int(whole[-1]) <= SIZE
        hashes_of(caps, SAMPLES, "x.tar")
    except ValueError as error:
        return _refused("sidecars", error)
    return "sidecars accepted"


def fuzz(count: int, seed: int) -> dict[str, int]:
    """Read `count` damaged manifests and as many pairs of sidecars. Returns how many were refused and accepted.

    Whatever is accepted must hold what :func:`check_manifest` says; anything but a ValueError is a failure.
    """
    rng = random.Random(seed)
    return dict(Counter(kind(rng) for _ in range(count) for kind in (_manifest, _sidecar)))
