"""How often things come again among more of them than fit into memory: 64-bit and 128-bit hashes, in files.

A file of records is parted by the first bits of their hashes until a part fits into memory; each is then counted by
itself. The records of a thing that comes millions of times are joined as they are read, so that it does not fill a
part. On disk this takes twice the file for a while; in memory a few hundred MB, whatever the number of records.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

RECORD = np.dtype([("high", "<u8"), ("low", "<u8"), ("place", "<u8")])
"""The hash, and where it was found."""
PIECE = 1 << 19  # records read at a time
PART = 1 << 20  # records of a part, about
MOST_PARTS = 256  # files open at once
_GROUP = np.dtype([("high", "<u8"), ("low", "<u8"), ("count", "<u8"), ("first", "<u8"), ("last", "<u8")])


@dataclass(frozen=True)
class Repeats:
    """What comes again.

    Attributes:
        records: in all.
        distinct: different hashes.
        repeated: different hashes that come more than once.
        most: (times, first place, last place) of those that come most often, at most `shown`.
    """

    records: int
    distinct: int
    repeated: int
    most: list[tuple[int, int, int]]

    @property
    def more(self) -> int:
        """Records beyond the first of their hash."""
        return self.records - self.distinct


def count(path: Path, shown: int) -> Repeats:
    """Repeats in a file of RECORDs. Files beside it are written and removed.

    Args:
        path: of the file.
        shown: groups to name.

    Raises OSError.
    """
    records = path.stat().st_size // RECORD.itemsize
    parts = min(MOST_PARTS, 1 << max(0, -(-records // PART) - 1).bit_length())
    distinct = repeated = 0
    most = np.empty(0, _GROUP)
    for part in [path] if parts == 1 else _parted(path, parts):
        groups = _groups(part)
        distinct += len(groups)
        several = groups[groups["count"] > 1]
        repeated += len(several)
        most = np.concatenate([most, several])
        most = most[np.lexsort((most["first"], np.iinfo(np.uint64).max - most["count"]))[:shown]]
        if part != path:
            part.unlink()
    rows = [(int(row["count"]), int(row["first"]), int(row["last"])) for row in most]
    return Repeats(records, distinct, repeated, rows)


def _pieces(path: Path) -> Iterator[np.ndarray]:
    with path.open("rb") as file:
        while len(data := file.read(PIECE * RECORD.itemsize)) >= RECORD.itemsize:
            yield np.frombuffer(data[: len(data) // RECORD.itemsize * RECORD.itemsize], RECORD)


def _parted(path: Path, parts: int) -> list[Path]:
    """Files of the records whose hashes begin alike. parts: a power of two, at least 2."""
    shift = np.uint64(64 - (parts - 1).bit_length())
    paths = [path.with_name(f"{path.name}.{number:03}") for number in range(parts)]
    files: list[BinaryIO] = []
    try:
        for each in paths:
            files.append(each.open("wb"))
        for records in _pieces(path):
            numbers = (records["high"] >> shift).astype(np.int64)
            order = np.argsort(numbers, kind="stable")
            edges = np.searchsorted(numbers[order], np.arange(parts + 1))
            for file, start, stop in zip(files, edges[:-1].tolist(), edges[1:].tolist(), strict=True):
                file.write(records[order[start:stop]].tobytes())
    finally:
        for file in files:
            file.close()
    return paths


def _groups(path: Path) -> np.ndarray:
    """The different hashes of a file, with how often and where they come: _GROUP [n]."""
    kept, waiting, held = np.empty(0, _GROUP), list[np.ndarray](), 0
    for records in _pieces(path):
        groups = np.empty(len(records), _GROUP)
        groups["high"], groups["low"] = records["high"], records["low"]
        groups["count"], groups["first"], groups["last"] = 1, records["place"], records["place"]
        waiting.append(_joined(groups))
        held += len(waiting[-1])
        if held > max(PART, len(kept)):  # so that joining takes a time that grows with the records alone
            kept, waiting, held = _joined(np.concatenate([kept, *waiting])), [], 0
    return _joined(np.concatenate([kept, *waiting]))


def _joined(groups: np.ndarray) -> np.ndarray:
    """Groups of one hash made one."""
    if not len(groups):
        return groups
    groups = groups[np.lexsort((groups["low"], groups["high"]))]
    new = np.empty(len(groups), bool)
    new[0] = True
    new[1:] = (groups["high"][1:] != groups["high"][:-1]) | (groups["low"][1:] != groups["low"][:-1])
    starts = np.flatnonzero(new)
    joined = groups[starts]
    joined["count"] = np.add.reduceat(groups["count"], starts)
    joined["first"] = np.minimum.reduceat(groups["first"], starts)
    joined["last"] = np.maximum.reduceat(groups["last"], starts)
    return joined
