"""A board in shared memory: readers in worker processes note there what they wait for, the main process reads it.

It has a slot for each reader. Passed to a worker process as an argument (of its function, or as a part of a dataset),
it is the same board there, however the process was started: fork, spawn or forkserver. A worker that ends, by a signal
too, leaves nothing locked and nothing to clean up.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Hashable
from multiprocessing.sharedctypes import RawArray
from typing import Any, NamedTuple

from silc.storage.address import shorten

ADDRESS = 60  # characters that are noted, the last ones
WORDS = 40
_SEQUENCE = struct.Struct("<Q")  # odd while its slot is being written
_WAITING = struct.Struct(f"<dQ{4 * WORDS}s{4 * ADDRESS}s")  # begin (0: not waiting), tries; utf-8 has up to 4 bytes
_TOTALS = struct.Struct("<QdQQQQ")
_SLOT = _SEQUENCE.size + _WAITING.size + _TOTALS.size
_LOOKS = 100  # at a slot that is being written


class Waiting(NamedTuple):
    """A range that a reader waits for: who, for which file or object, why, after how many tries, for how long."""

    worker: int
    address: str
    words: str
    tries: int
    seconds: float


class Totals(NamedTuple):
    """What has been read so far, by all readers or one.

    retries: tries that failed and were followed by another; seconds: in which a reader waited for at least one range
    that had failed; bytes_read: from files and stores; bytes_used: of them, by samples; ranges: asked for;
    bytes_cached: from the node's cache.
    """

    retries: int = 0
    seconds: float = 0.0
    bytes_read: int = 0
    bytes_used: int = 0
    ranges: int = 0
    bytes_cached: int = 0


class Board:
    """See the module.

    Args:
        workers: number of slots. A slot has one process that writes to it at a time.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._memory: Any = RawArray("B", max(1, workers) * _SLOT)
        self._notes: dict[int, Notes] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_notes": {}}

    def notes(self, worker: int) -> Notes:
        """The slot of a reader, to write to: the same object for all callers in a process."""
        if not 0 <= worker < self.workers:
            raise IndexError(f"the board has {self.workers} slots, there is no slot {worker}")
        found = self._notes.get(worker)
        if found is None or found.process != os.getpid():
            found = self._notes[worker] = Notes(self._memory, worker)
        return found

    def waiting(self) -> list[Waiting]:
        """Who waits now, the longest first."""
        now = time.monotonic()  # the same clock in all processes of a machine
        found = []
        for worker in range(self.workers):
            (begin, tries, words, address), _ = self._look(worker)
            if begin > 0:
                found.append(Waiting(worker, _text(address), _text(words), tries, max(0.0, now - begin)))
        return sorted(found, key=lambda waiting: -waiting.seconds)

    def totals(self) -> Totals:
        """Sums over all readers."""
        columns = zip(*(self._look(worker)[1] for worker in range(self.workers)), strict=True)
        return Totals(*map(sum, columns)) if self.workers else Totals()

    def _look(self, worker: int) -> tuple[tuple[Any, ...], Totals]:
        """A consistent copy of a slot. One whose writer was killed in the middle is taken as it is."""
        for _ in range(_LOOKS):
            copy = bytes(memoryview(self._memory)[worker * _SLOT : (worker + 1) * _SLOT])
            sequence = _SEQUENCE.unpack_from(copy)[0]
            if sequence % 2 == 0 and _SEQUENCE.unpack_from(self._memory, worker * _SLOT)[0] == sequence:
                break
            time.sleep(1e-4)
        waiting = _WAITING.unpack_from(copy, _SEQUENCE.size)
        return waiting, Totals(*_TOTALS.unpack_from(copy, _SEQUENCE.size + _WAITING.size))


class Notes:
    """One slot of a board, for the threads of the process that writes to it."""

    def __init__(self, memory: Any, worker: int) -> None:
        self.process = os.getpid()
        self._memory, self._at = memory, worker * _SLOT
        self._lock = threading.Lock()
        self._waits: dict[Hashable, tuple[float, int, str, str]] = {}
        self._since: float | None = None  # when the first of the present waits was noted
        self._write(Totals())  # a predecessor may have been killed while it waited

    def add(
        self, *, ranges: int = 0, bytes_read: int = 0, bytes_used: int = 0, bytes_cached: int = 0, retries: int = 0
    ) -> None:
        """Add to the totals."""
        with self._lock:
            self._write(Totals(retries, 0.0, bytes_read, bytes_used, ranges, bytes_cached))

    def wait(self, key: Hashable, address: str, words: str, tries: int, began: float) -> None:
        """Note that a range has failed and is tried again; key: names the range until :meth:`done`."""
        with self._lock:
            self._waits[key] = (began, tries, words[:WORDS], shorten(address, ADDRESS - len("...")))
            if self._since is None:
                self._since = began
            self._write(Totals(retries=1))

    def done(self, key: Hashable) -> None:
        """Note that nobody waits for this range any more."""
        with self._lock:
            if self._waits.pop(key, None) is None:
                return
            seconds = 0.0
            if not self._waits and self._since is not None:
                seconds, self._since = time.monotonic() - self._since, None
            self._write(Totals(seconds=seconds))

    def _write(self, more: Totals) -> None:
        """Write the longest wait, and add to the totals; the lock is held."""
        began, tries, words, address = min(self._waits.values(), default=(0.0, 0, "", ""))
        at = self._at
        sequence = _SEQUENCE.unpack_from(self._memory, at)[0] | 1
        _SEQUENCE.pack_into(self._memory, at, sequence)
        _WAITING.pack_into(self._memory, at + _SEQUENCE.size, began, tries, words.encode(), address.encode())
        place = at + _SEQUENCE.size + _WAITING.size
        sums = [old + new for old, new in zip(_TOTALS.unpack_from(self._memory, place), more, strict=True)]
        _TOTALS.pack_into(self._memory, place, *sums)
        _SEQUENCE.pack_into(self._memory, at, (sequence + 1) % 2**64)


def _text(field: bytes) -> str:
    return field.rstrip(b"\0").decode("utf-8", "replace")
