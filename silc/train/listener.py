"""A thread of a rank that hears signals while the main thread waits in a collective, and watches over the launchers.

The main thread's handlers run between two of its instructions, which may be half an hour apart where it waits for
another rank. So this thread passes the first signal on to the other ranks of the machine, one of which may be the one
that all wait for; and while the rank starts, it ends a process whose main thread does not.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from silc.errors import STOPPED_BY_SIGNAL
from silc.processes import PERIOD
from silc.train.ancestors import ancestors, siblings
from silc.train.stop import SIGNALS, StopRequest, say

PATIENCE = 10.0  # seconds that a start has to end after a signal


@contextmanager
def listening(request: StopRequest) -> Iterator[None]:
    """Such a thread, for a process that is a rank of a job or trains alone; nothing where this is not its main thread,
    which alone takes signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=_forked)
    over = threading.Event()
    threading.Thread(target=_listen, args=(request, read, over), daemon=True, name="signals").start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        over.set()


def _forked() -> None:
    """A signal to a fork is none to this process."""
    with contextlib.suppress(ValueError):  # forked by another thread
        signal.set_wakeup_fd(-1)


def _listen(request: StopRequest, read: int, over: threading.Event) -> None:
    above = ancestors()
    heard: float | None = None
    while heard is None and not over.is_set():
        gone = next((one for one in above if one.process is None or not one.process.alive), None)
        if gone is not None:
            say(f"{gone} has ended: the run stops")
            request.lose(str(gone))
        ready, _, _ = select.select([read], [], [], PERIOD)
        heard_now = [number for number in os.read(read, 4096) if number in SIGNALS] if ready else []
        if heard_now:
            heard = time.monotonic()
            if request.lost is None:  # else the others see it themselves
                _pass_on(heard_now[0])
    while request.starting and heard is not None:  # also where it waits for others while it ends
        if time.monotonic() - heard > PATIENCE:
            os._exit(STOPPED_BY_SIGNAL)
        time.sleep(PERIOD)


def _pass_on(number: int) -> None:
    """SIGINT as SIGTERM, since a second one would interrupt; the others may come twice without a meaning."""
    for rank in siblings():
        with contextlib.suppress(OSError):
            os.kill(rank.pid, signal.SIGTERM if number == signal.SIGINT else number)
