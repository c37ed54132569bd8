"""Processes that another one depends on: known by number and start, since a number is given again after a while."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

PERIOD = 1.0  # seconds between looks at whether a process lives


class Known(NamedTuple):
    """A process of this machine.

    Attributes:
        pid: its number.
        started: clock ticks from the machine's start to its own, as in field 22 of /proc/PID/stat.
    """

    pid: int
    started: int

    @property
    def alive(self) -> bool:
        """Whether it runs; one that has ended and was not waited for does not."""
        return _read(self.pid) == (self.started, True)


def known(pid: int) -> Known | None:
    """A process that runs now; None where there is none, or nothing can be learned of it."""
    started, alive = _read(pid)
    return Known(pid, started) if alive else None


def _read(pid: int) -> tuple[int, bool]:
    """(start in clock ticks, whether it lives), of any process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        state, *fields = text.rpartition(")")[2].split()  # a program's name may hold anything
        return int(fields[18]), state not in "ZXx"
    except (OSError, ValueError, IndexError):
        return -1, False


def end_with(other: Known | None, leave: Callable[[], None] = lambda: os._exit(1)) -> None:
    """Watch another process from a thread of this one, and leave within two seconds of its end. None: do nothing.

    For a process that computes for another one and would wait for its orders for ever.
    """
    if other is not None:
        threading.Thread(target=_watch, args=(other, leave), daemon=True).start()


def _watch(other: Known, leave: Callable[[], None]) -> None:
    while other.alive:
        time.sleep(PERIOD)
    leave()
