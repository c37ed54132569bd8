"""Several runs side by side, each a chain of processes, which a stop ends together."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

from silc.errors import STOPPED_BY_SIGNAL

T = TypeVar("T")
Work = Callable[[], T]  # what one thread does
TAIL = 30  # lines of a log that are shown of a process that failed


class Processes:
    """The processes that are running; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[int] = set()
        self.stopped = False

    def run(self, words: Sequence[str], environment: Mapping[str, str], log: Path | None = None) -> int:
        """Exit status of a command; of one that was to be stopped, or not begun any more, STOPPED_BY_SIGNAL.

        log: a file for its output, after what is there; None: it goes where this process's goes.
        """
        with self._lock:
            if self.stopped:
                return STOPPED_BY_SIGNAL
            process = self._start(words, environment, log)
            self._running.add(process.pid)
        try:
            status = process.wait()
        finally:
            with self._lock:
                self._running.discard(process.pid)
        return STOPPED_BY_SIGNAL if self.stopped and status else status

    @staticmethod
    def _start(words: Sequence[str], environment: Mapping[str, str], log: Path | None) -> subprocess.Popen[bytes]:
        """A process with a group of its own: the terminal's Ctrl-C must not reach it before it can save."""
        if log is None:
            return subprocess.Popen(words, env=environment, start_new_session=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            return subprocess.Popen(words, env=environment, start_new_session=True, stdout=file, stderr=file)

    def stop(self) -> None:
        """Ask all to end, and begin none any more."""
        with self._lock:
            self.stopped = True
            for group in self._running:
                try:
                    os.killpg(group, signal.SIGTERM)
                except ProcessLookupError:
                    continue


def side_by_side(jobs: int, work: Sequence[Work[T]], stop: Callable[[], None]) -> Generator[T, None, None]:
    """The results of `work`, as they come: `jobs` at a time, begun in order, none before the last result is taken.

    What is taken may end it early (a `break`, an exception, KeyboardInterrupt here): then nothing more is begun, `stop`
    is called, and what runs is waited for.
    """
    with ThreadPoolExecutor(jobs) as pool:
        waiting = list(reversed(work))
        running: set[Future[T]] = set()
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    running.add(pool.submit(waiting.pop()))
                ended, _ = wait(running, return_when=FIRST_COMPLETED)
                one = ended.pop()
                running.remove(one)
                yield one.result()
        finally:
            if running:
                stop()


def tail(log: Path) -> str:
    """The last lines of a log, for the terminal; of one that was removed none."""
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 200 * TAIL))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(lines[-TAIL:])
