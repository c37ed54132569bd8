"""Sources for the tests of packing, and what shards hold by Python's own tarfile."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from silc.data.packing.find import find
from silc.data.packing.options import SourceOptions
from silc.data.packing.pack import PackOptions, pack
from silc.data.packing.sample import SampleOptions
from silc.data.packing.state import Finished

PLAIN = {
    "samples": None,
    "size": 10**9,
    "seed": 0,
    "limit": None,
    "max_skipped": 0.1,
    "jobs": 1,
    "force": False,
}


def image(number: int = 0, kind: str = "jpeg", size: tuple[int, int] = (24, 16), **options) -> bytes:
    """A picture of noise, different for each number."""
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def captioned(folder: Path, count: int, first: int = 0) -> Path:
    """A folder with `count` images and their captions beside, ten to a folder."""
    for number in range(first, first + count):
        place = folder / f"{number // 10:03}" / f"{number:05}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(image(number))
        place.with_suffix(".txt").write_text(f"picture {number}\n")
    return folder


def packed(
    source: Path, out: Path, *, making: dict | None = None, reading: dict | None = None, say=lambda _: None, **options
) -> Finished:
    """Pack a source, with options of each kind."""
    given = SourceOptions(**(reading or {}))
    plain = {"size": None, "quality": 95, "verify": False, "max_pixels": 10**8, "captions": given.captions or "txt"}
    how = PackOptions(making=SampleOptions(**(plain | (making or {}))), reading=reading or {}, **(PLAIN | options))
    listing = find(str(source), given, leave_out=str(out))
    return pack(listing, str(source), out, how, lambda *_: None, say)


def samples(out: Path) -> list[dict[str, bytes]]:
    """Members by extension (and `key`, `shard`) of every sample, in the order of the shards."""
    found: list[dict[str, bytes]] = []
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                if not found or found[-1]["key"] != key.encode():
                    found.append({"key": key.encode(), "shard": path.name.encode()})
                found[-1][extension] = tar.extractfile(member).read()
    return found


def by_source(out: Path) -> dict[str, dict[str, bytes]]:
    """The samples by the name of their row."""
    return {json.loads(sample["json"])["source"]: sample for sample in samples(out)}


def captions(out: Path) -> dict[str, list[str]]:
    """Captions by name of the row, as a reader of lines has them."""
    return {name: sample["txt"].decode().split("\n") for name, sample in by_source(out).items()}


def skipped(out: Path) -> dict[str, str]:
    """Reason by name of the row."""
    path = out / "skipped.jsonl"
    lines = map(json.loads, path.read_text().splitlines()) if path.exists() else []
    return {line["source"]: line["reason"] for line in lines}


def contents(out: Path) -> dict[str, bytes]:
    """The bytes of the shards and their index."""
    return {path.name: path.read_bytes() for path in out.iterdir() if path.suffix in (".tar", ".idx", ".cap")}
