"""Writing shards: tars whose bytes depend on their samples alone, and that have their name only when they are whole."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import BinaryIO, NamedTuple

from silc.data.packing.sample import Members
from silc.files import sync_folder

RECORD, BLOCK = 512, 10_240  # bytes; a tar is filled up to whole blocks


class Part(NamedTuple):
    """A tar. samples: in it. size: in bytes."""

    samples: int
    size: int


class PartWriter:
    """Writes samples into tars `STEM-000.tar`, `STEM-001.tar`, ...; leave it by :meth:`close`, or without: then the
    last tar has no name.

    Args:
        folder: of the tars.
        stem: their names begin with it.
        samples: of a tar, at most.
        size: bytes of a tar, at most; a sample that is larger has one of its own.

    Attributes:
        parts: the tars that are whole.
    """

    def __init__(self, folder: Path, stem: str, samples: int, size: int) -> None:
        self.parts: list[Part] = []
        self._folder, self._stem, self._samples, self._limit = folder, stem, samples, size
        self._file: BinaryIO | None = None
        self._count = self._size = 0

    def add(self, key: str, members: Members) -> None:
        """Write a sample. Raises OSError."""
        size = sum(RECORD + _padded(len(data)) for _, data in members)
        full = self._count == self._samples or _whole(self._size + size) > self._limit
        if self._file is not None and full:
            self._end()
        if self._file is None:
            self._file = open(self._draft(), "wb")  # noqa: SIM115 - closed by _end or abandon
            self._count = self._size = 0
        for extension, data in members:
            info = tarfile.TarInfo(f"{key}.{extension}")
            info.size = len(data)  # everything else is fixed: no owner, time 0, mode 0644
            self._file.write(info.tobuf(tarfile.USTAR_FORMAT))
            self._file.write(data)
            self._file.write(bytes(_padded(len(data)) - len(data)))
        self._count, self._size = self._count + 1, self._size + size

    def close(self) -> list[Part]:
        """Bring the last tar to the disk. Returns all parts. Raises OSError."""
        if self._file is not None:
            self._end()
        sync_folder(self._folder)
        return self.parts

    def abandon(self) -> None:
        """Let go of the last tar, which stays without a name."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _draft(self) -> Path:
        return self._folder / f"{part_name(self._stem, len(self.parts))}.part"

    def _end(self) -> None:
        assert self._file is not None
        end = _whole(self._size)
        self._file.write(bytes(end - self._size))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        draft = self._draft()
        draft.rename(draft.with_suffix(""))
        self.parts.append(Part(self._count, end))


def part_name(stem: str, number: int) -> str:
    """Name of a unit's tar, before the shards are numbered."""
    return f"{stem}-{number:03d}.tar"


def _whole(size: int) -> int:
    """Bytes of a tar with members of `size` bytes, and its end mark."""
    return -(-(size + 2 * RECORD) // BLOCK) * BLOCK


def _padded(size: int) -> int:
    return -(-size // RECORD) * RECORD
