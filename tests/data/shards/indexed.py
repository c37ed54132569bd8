"""Folders of small shards for the tests of the index, and what an index of them gives back."""

from __future__ import annotations

import io
import itertools
import tarfile
from hashlib import blake2b
from pathlib import Path

from silc.data.shards.build import Built, build
from silc.data.shards.manifest import Manifest
from silc.data.shards.samples import parse
from silc.data.shards.sidecar import offsets_of
from tests.data.shards import tars


def pairs(count: int, seed: int = 0, size: int = 900) -> list[tars.Entry]:
    """Files of `count` samples: an image and a caption each."""
    return [
        entry
        for i in range(count)
        for entry in (
            (f"{i:06}.jpg", b"%d" % (seed + i) * (size // 4)),
            (f"{i:06}.txt", b"Thing %d  of %d" % (i, seed)),
        )
    ]


def write(folder: Path, counts: list[int], first: int = 0) -> list[str]:
    """Shards of so many samples; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, count in enumerate(counts, first):
        path = folder / f"{number:05}.tar"
        path.write_bytes(tars.pack(pairs(count, seed=100 * number)))
        paths.append(str(path))
    return paths


def copies(folder: Path, shards: int, samples: int) -> list[str]:
    """Many shards in little time, all alike: enough of them that a build is still at work when it is looked at."""
    folder.mkdir()
    data = tars.pack(pairs(samples, size=4))
    for number in range(shards):
        (folder / f"{number:05}.tar").write_bytes(data)
    return [str(folder / f"{number:05}.tar") for number in range(shards)]


def again(folder: Path, **options) -> Built:
    """The index of a folder, made or brought up to date."""
    return build([str(path) for path in sorted(folder.glob("*.tar"))], f"{folder}/", **options)


def names(folder: Path) -> set[str]:
    """Of the files in a folder."""
    return {path.name for path in folder.iterdir()}


def read(manifest: Manifest) -> list[list[tuple[str, dict[str, bytes]]]]:
    """(key, members) of every sample of every shard, read from one range each."""
    shards = []
    for number, address in enumerate(manifest.addresses):
        found = []
        if manifest.samples[number]:
            data, sidecar = Path(address).read_bytes(), Path(manifest.sidecar(number)).read_bytes()
            offsets = offsets_of(sidecar, int(manifest.sizes[number]), address).tolist()
            assert len(offsets) == manifest.samples[number] + 1
            for start, stop in itertools.pairwise(offsets):
                sample = parse(data[start:stop])
                found.append((sample.key, {name: bytes(member) for name, member in sample.members.items()}))
        shards.append(found)
    return shards


def expected(manifest: Manifest) -> list[list[tuple[str, dict[str, bytes]]]]:
    """The same by tarfile."""
    return [tars.content(Path(address).read_bytes()).samples for address in manifest.addresses]


def hashes(caption: bytes) -> int:
    """The caption hash of a caption that is not empty, as it is written down."""
    text = " ".join(caption.decode().casefold().split()).encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")


def energon(path: Path) -> bytes:
    """The .tar.idx that megatron-energon writes for a tar: where its samples begin, and where the last ends."""
    offsets, last = [], None
    with tarfile.open(fileobj=io.BytesIO(path.read_bytes())) as tar:
        for member in tar:
            key, dot, _ = member.name.partition(".")
            if member.isreg() and dot and key != last:
                offsets.append(member.offset)
                last = key
        offsets.append(tar.offset)
    return b"".join(offset.to_bytes(8, "little") for offset in offsets)
