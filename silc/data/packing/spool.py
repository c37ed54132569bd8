"""Rows on disk: listed once, read by number in any process, whatever their number."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from silc.data.packing.rows import Row, Skip
from silc.data.packing.skips import SkipFile, Tally

ROWS, STOPS, SKIPPED = "rows.jsonl", "rows.u64", "listed.jsonl"
TOGETHER = 65_536  # offsets held until they are written


@dataclass(frozen=True)
class Spool:
    """Rows in a folder: each a line of JSON, and where each line ends as a little-endian u64.

    Attributes:
        folder: that they lie in.
        count: of the rows.
        digest: hash of all lines.
    """

    folder: str
    count: int
    digest: str

    def __len__(self) -> int:
        return self.count

    def blocks(self) -> None:
        return None

    def read(self, numbers: np.ndarray) -> Iterator[Row]:
        file, stops = _opened(self)
        for number in numbers.tolist():
            first = int(stops[number - 1]) if number else 0
            line = os.pread(file, int(stops[number]) - first, first)
            yield Row(*json.loads(line))

    def close(self) -> None:
        """Close the files in this process: NFS keeps files that are removed while they are open."""
        opened = _OPEN.pop(self, None)
        if opened is not None:
            os.close(opened[0])


def spool(rows: Iterable[Row | Skip], folder: Path) -> tuple[Spool, Tally]:
    """Write rows into a folder, which must exist. Returns them, and those that the listing itself left out.

    Raises OSError, and what the rows raise.
    """
    digest, count, end = hashlib.sha256(), 0, 0
    waiting: list[int] = []
    with (
        open(folder / ROWS, "wb") as file,
        open(folder / STOPS, "wb") as stops,
        SkipFile(folder / SKIPPED) as skipped,
    ):
        for row in rows:
            line = json.dumps(row).encode() + b"\n"
            digest.update(line)
            if isinstance(row, Skip):
                skipped.add(row)
                continue
            file.write(line)
            count, end = count + 1, end + len(line)
            waiting.append(end)
            if len(waiting) == TOGETHER:
                stops.write(np.array(waiting, dtype="<u8").tobytes())
                waiting.clear()
        stops.write(np.array(waiting, dtype="<u8").tobytes())
    return Spool(str(folder), count, digest.hexdigest()), skipped


_OPEN: dict[Spool, tuple[int, np.ndarray]] = {}


def _opened(held: Spool) -> tuple[int, np.ndarray]:
    """The descriptor of the file of rows, and where each ends."""
    if held not in _OPEN:
        for other in list(_OPEN):  # one at a time
            other.close()
        folder = Path(held.folder)
        stops = np.memmap(folder / STOPS, dtype="<u8", mode="r") if held.count else np.zeros(0, dtype="<u8")
        _OPEN[held] = os.open(folder / ROWS, os.O_RDONLY), stops
    return _OPEN[held]
