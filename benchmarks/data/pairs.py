"""Image-text pairs made for the data benchmark: real JPEGs, a pure function of the seed, each with bytes of its own."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

POOL = 256  # pictures; samples differ in a comment inside the JPEG, so that each has bytes of its own
OPENING = 2  # bytes of a JPEG's first marker


class Pair(NamedTuple):
    """One sample, as it is stored."""

    key: str
    image: bytes
    caption: bytes


def pictures(count: int, width: int, height: int, seed: int = 0) -> list[bytes]:
    """JPEGs of about the size of photos: smooth patches with noise on them; quality 85."""
    rng = np.random.default_rng(seed)
    encoded = []
    for _ in range(count):
        coarse = rng.integers(0, 256, (max(2, height // 16), max(2, width // 16), 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        pixels = np.asarray(smooth, dtype=np.int16) + rng.integers(-12, 13, (height, width, 3), dtype=np.int16)
        file = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
        encoded.append(file.getvalue())
    return encoded


def pairs(first: int, count: int, pool: Sequence[bytes]) -> Iterator[Pair]:
    """Samples [first, first + count): keys in order, pictures in turn, a word in each caption that no other has."""
    for number in range(first, first + count):
        picture = pool[number % len(pool)]
        note = b"%020d" % number
        segment = b"\xff\xfe" + (len(note) + 2).to_bytes(2, "big") + note
        image = picture[:OPENING] + segment + picture[OPENING:]
        yield Pair(f"{number:09}", image, f"a picture of the place {word(number)} by the sea".encode())


def word(number: int) -> str:
    """A word of letters alone, so that a tokenizer does not cut it at the digits."""
    letters = ""
    while number or not letters:
        number, letter = divmod(number, 26)
        letters = chr(ord("a") + letter) + letters
    return f"x{letters}"


def write_tar(path: Path, samples: Iterable[Pair]) -> int:
    """Write a tar and, beside it, PATH.idx: little-endian u64 [n + 1], each sample's first header and the end.

    Returns the number of samples.
    """
    starts = []
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for pair in samples:
            starts.append(tar.offset)
            for extension, data in (("jpg", pair.image), ("txt", pair.caption)):
                member = tarfile.TarInfo(f"{pair.key}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        starts.append(tar.offset)
    np.array(starts, dtype="<u8").tofile(f"{path}.idx")
    return len(starts) - 1


def read_tar(path: Path) -> Iterator[Pair]:
    """The samples of a tar of :func:`write_tar`, by tarfile: the source that a stream is compared with."""
    with tarfile.open(path) as tar:
        members = iter(tar)
        for image in members:
            caption = next(members)
            key, extension = os.path.splitext(image.name)
            assert extension == ".jpg"
            assert caption.name == f"{key}.txt"
            yield Pair(key, _bytes(tar, image), _bytes(tar, caption))


def _bytes(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()
