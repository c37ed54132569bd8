"""Sets for the data benchmark: real ones, and faked ones of any size.

A faked set has the files of a web-scale one without its bytes: a few real tars of 10,000 tiny samples are hard-linked
under as many names as wanted, their indices likewise, and the manifest is written from their counts. Every reader
opens, lists and reads what it would open, list and read there; only the payload comes from the same few blocks of the
disk, so that it is always cached. webdataset has no index at all: it is given the names, and each worker reads tars
from front to back. mosaicml-streaming's MDS shards are linked likewise; its index.json has an entry for each.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import ROOT
from benchmarks.data.pairs import POOL, pairs, pictures, write_tar
from silc.data.shards.build import IMAGES
from silc.data.shards.manifest import NAME, Row
from silc.data.shards.manifest_file import packed

LINKS = 60_000  # names for one file; ext4 allows 65,000
TINY = (64, 64)  # pixels: a JPEG of about 2 kB


@dataclass(frozen=True)
class PairSet:
    """tars: folder with the shards, their indices and `shards.manifest`. mds: the same samples for mosaicml-streaming,
    or None.
    """

    tars: Path
    mds: Path | None
    shards: int
    samples: int

    @property
    def paths(self) -> list[str]:
        """Of the tars, in order."""
        return [str(self.tars / name(number)) for number in range(self.shards)]


def name(number: int) -> str:
    """File name of a shard."""
    return f"{number:06}.tar"


def real_set(folder: Path, shards: int, per_shard: int, size: tuple[int, int], peer: str | None) -> PairSet:
    """Shards with samples that are all different.

    Args:
        folder: to be made.
        size: width and height of the pictures, in pixels.
        peer: Python that has mosaicml-streaming; None: no MDS shards.
    """
    tars, mds = folder / "tars", folder / "mds"
    tars.mkdir(parents=True)
    pool = pictures(POOL, *size)
    for shard in range(shards):
        write_tar(tars / name(shard), pairs(shard * per_shard, per_shard, pool))
    made = PairSet(tars, mds if peer else None, shards, shards * per_shard)
    if peer:
        write_mds(peer, made.paths, mds)
    write_manifest(made, [per_shard] * shards)
    return made


def originals(folder: Path, count: int, per_shard: int, peer: str | None) -> PairSet:
    """The real shards that faked sets are links of; `count` of them hold different samples."""
    return real_set(folder, count, per_shard, TINY, peer)


def fake_set(folder: Path, shards: int, real: PairSet) -> PairSet:
    """A set of `shards` shards, each a link of one of the originals in turn.

    Raises:
        ValueError: more shards than the file system has links for the originals.
    """
    if shards > LINKS * real.shards:
        raise ValueError(f"{shards} shards need {-(-shards // LINKS)} originals, {real.shards} are there; make more")
    tars, mds = folder / "tars", folder / "mds"
    tars.mkdir(parents=True)
    for number in range(shards):
        original = real.tars / name(number % real.shards)
        os.link(original, tars / name(number))
        os.link(f"{original}.idx", tars / f"{name(number)}.idx")
    per_shard = real.samples // real.shards
    if real.mds is not None:
        _link_mds(real.mds, mds, shards)
    made = PairSet(tars, mds if real.mds else None, shards, shards * per_shard)
    write_manifest(made, [per_shard] * shards)
    return made


def _link_mds(real: Path, folder: Path, shards: int) -> None:
    folder.mkdir()
    entries = json.loads((real / "index.json").read_text())["shards"]
    with (folder / "index.json").open("w") as file:
        file.write('{"version": 2, "shards": [')
        for number in range(shards):
            entry = entries[number % len(entries)]
            linked = f"shard.{number:06}.mds"
            os.link(real / entry["raw_data"]["basename"], folder / linked)
            described = entry | {"raw_data": entry["raw_data"] | {"basename": linked}}
            file.write(("," if number else "") + json.dumps(described))
        file.write("]}")


def write_mds(peer: str, tars: Sequence[str], folder: Path) -> None:
    """The samples of tars as MDS shards, by the peer's own writer.

    Raises:
        subprocess.CalledProcessError: that Python has no mosaicml-streaming, or the disk is full.
    """
    command = [peer, "-m", "benchmarks.data.write_mds", *tars, str(folder)]
    subprocess.run(command, cwd=ROOT, env=environment(), check=True)


def environment() -> dict[str, str]:
    """Of processes that run another Python with the packages of this checkout."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


def write_manifest(made: PairSet, samples: Sequence[int]) -> None:
    """The list of shards with their counts, beside them, without reading them."""
    rows = []
    for path, count in zip(made.paths, samples, strict=True):
        found = os.stat(path)
        details = json.dumps({"has": {"jpg": count, "txt": count}})
        rows.append(Row(Path(path).name, count, found.st_size, str(found.st_mtime_ns), details))
    (made.tars / NAME).write_bytes(packed(rows, base=None, caption=None, images=IMAGES))


def remove(folder: Path) -> None:
    """Delete a set; faked ones have hundreds of thousands of names."""
    shutil.rmtree(folder, ignore_errors=True)
