"""What a check has found so far, on disk: it outlives the process, and memory holds a few bytes a shard of it."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from silc.data.survey.examine import Examined, written
from silc.data.survey.tally import Tally
from silc.errors import RunStopped
from silc.files import parse_json
from silc.storage import Stat

NAME = "journal"
HASHES = ("images", "pairs", "texts")
LONGEST = 64 << 20  # bytes of a line: names have at most examine.MOST_BYTES, the rest some thousand
_BAD_LINE = (ValueError, KeyError, TypeError, AttributeError)


class Journal:
    """One line of JSON a shard, in the order in which shards were done, and beside it three files of hashes.

    Args:
        folder: of these files, made here; nobody else writes to it.
        made_for: what was checked and how. What an earlier check for something else left there is forgotten.

    Raises:
        ValueError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, made_for: Sequence[Any]) -> None:
        self.folder = folder
        self._head = json.dumps(list(made_for)) + "\n"
        self._lines: dict[int, int] = {}  # shard -> offset of its line
        self._stats: dict[int, Stat] = {}
        self._ends = [0] * len(HASHES)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            end = self._read()
            self._file = self._opened(NAME, end)
            if not end:
                self._file.write(self._head.encode())
                self._file.flush()
            self._hashes = [self._opened(name, size) for name, size in zip(HASHES, self._ends, strict=True)]
        except OSError as error:
            raise ValueError(
                f"{folder} cannot be written to ({error.strerror}); set SILC_CACHE to a folder that can"
            ) from None

    def __len__(self) -> int:
        return len(self._lines)

    def known(self, shard: int) -> Stat | None:
        """The size and version of a shard when it was checked; None: it was not."""
        return self._stats.get(shard)

    def add(self, found: Examined) -> None:
        """Keep what was found in a shard. Raises RunStopped where the disk is full."""
        assert found.stat is not None
        with self._or_stop():
            for file, data in zip(self._hashes, (found.images, found.pairs, found.texts), strict=True):
                file.write(data)
                file.flush()
            ends = [file.tell() for file in self._hashes]
            values = vars(found) | {"tally": found.tally.to_dict(), "stat": list(found.stat), "ends": ends}
            for name in HASHES:
                del values[name]
            self._lines[found.number], self._stats[found.number] = self._file.tell(), found.stat
            self._file.write(written(values) + b"\n")
            self._file.flush()

    def read(self) -> Iterator[Examined]:
        """What was found, in the order of the shards, without the hashes."""
        with (self.folder / NAME).open("rb") as file:
            for number in sorted(self._lines):
                file.seek(self._lines[number])
                yield _parsed(file.readline(LONGEST))[0]

    def close(self) -> None:
        """Stop writing; what was found stays for the next check."""
        for file in (self._file, *self._hashes):
            with suppress(OSError):  # of a full disk, which was told before
                file.close()

    def remove(self) -> None:
        """Forget everything."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _opened(self, name: str, size: int) -> BinaryIO:
        """A file to append to, cut to the bytes that belong to shards that were noted."""
        path = self.folder / name
        path.touch()
        file = path.open("r+b")
        file.truncate(size)
        file.seek(size)
        return file

    def _read(self) -> int:
        """Note what an earlier check left. Returns the offset behind its last whole line; 0: nothing of use."""
        try:
            file = (self.folder / NAME).open("rb")
        except FileNotFoundError:
            return 0
        with file:
            if file.readline(LONGEST) != self._head.encode():
                return 0
            sizes = [(self.folder / name).stat().st_size if (self.folder / name).exists() else 0 for name in HASHES]
            while True:
                at = file.tell()
                line = file.readline(LONGEST)
                if not line.endswith(b"\n"):
                    return at
                try:
                    found, ends = _parsed(line)
                    fits = all(low <= end <= size for low, end, size in zip(self._ends, ends, sizes, strict=True))
                except _BAD_LINE:
                    return at
                if not fits or found.stat is None:  # the machine went down, and the hashes did not reach the disk
                    return at
                self._lines[found.number], self._stats[found.number], self._ends = at, found.stat, ends

    @contextmanager
    def _or_stop(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunStopped(
                f"{self.folder} could not be written: {error.strerror}; make room there, or set SILC_CACHE to another "
                "folder, and start again"
            ) from error


def _parsed(line: bytes) -> tuple[Examined, list[int]]:
    """A line, and where the files of hashes ended then. Raises one of _BAD_LINE for what is none."""
    values = parse_json(line)
    ends = [int(end) for end in values.pop("ends")]
    size, version = values.pop("stat")
    values["faults"] = Counter(values["faults"])
    values["named"] = [(str(key), str(reason)) for key, reason in values["named"]]
    values["tally"] = Tally.of(values["tally"])
    return Examined(**values, stat=Stat(int(size), str(version))), ends
