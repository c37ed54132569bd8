"""One call of the script: where it writes, alone; what ends it early; what its exit status tells."""

from __future__ import annotations

import argparse
import fcntl
import math
import os
import signal
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from benchmarks.gpu_run.jobs import Job
from benchmarks.gpu_run.process import FAILED, LEFT, TIMED_OUT, Outcome

DONE, FAILURE, GOES_ON = 0, 1, 3
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asks the script to end. number: which."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def interruptible() -> Iterator[None]:
    """Signals raise Interrupted, the first of them alone; those that are ignored (nohup) stay so."""
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in SIGNALS}

    def interrupt(number: int, frame: FrameType | None) -> None:
        for each in SIGNALS:  # a job is being ended: a second signal would leave it running
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(number)

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Make the folder `out` and hold it: two calls would measure each other, and write the same files.

    What ends the job of a killed call (process.py) inherits the lock, and holds it until that is done.

    Raises:
        ValueError: it cannot be written, or another call holds it.
    """
    try:
        (out / "logs").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
        folder = os.open(out, os.O_RDONLY)
    except OSError as error:
        raise ValueError(f"--out {out} cannot be written ({error.strerror}); take another folder") from None
    try:
        os.set_inheritable(folder, True)
        with suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"--out {out} is in use by another call; wait for it, or stop it") from None
        yield
    finally:
        os.close(folder)


def minutes(text: str) -> float:
    """Of the command line."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text!r}: give minutes, more than 0, as in 9.5")
    return value


def exit_status(todo: Iterable[Job], outcomes: dict[str, Outcome]) -> int:
    """GOES_ON while something is left for the next call, then FAILURE if a job failed."""
    ended = [(job, outcomes[job.name]) for job in todo]
    # What the end of the call stopped goes on in the next; what took all that it may have is a failure.
    left = [end.status == LEFT or (end.status == TIMED_OUT and end.seconds < job.most) for job, end in ended]
    if any(left):
        return GOES_ON
    return FAILURE if any(end.status in (FAILED, TIMED_OUT) for _, end in ended) else DONE
