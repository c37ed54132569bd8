"""How a run ends early on purpose. A mistake that can be known before training starts is a ValueError instead."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

STOPPED_BY_SIGNAL = 75  # exit status, EX_TEMPFAIL of sysexits.h: run it again
PAUSE = 5.0  # seconds: longer than the launcher needs to notice that a rank has left


class RunStopped(RuntimeError):
    """Training cannot usefully go on; the message says why and what to do.

    The weights of the last checkpoint are good.
    """


class StoreFailed(RunStopped):
    """A file or a remote store could not be read within the patience; the message names it and what was tried."""


class RunInterrupted(Exception):
    """A signal asked for the end; a checkpoint of the last step is written, and the message names it."""


class NothingLeft(Exception):
    """The run that was to go on is finished; the message says so. folder: of the run."""

    def __init__(self, message: str, folder: Path) -> None:
        super().__init__(message)
        self.folder = folder


def defer_to_first_rank() -> None:
    """Call it before a user's mistake is printed that all ranks of a machine find: the first one prints it alone.

    The other ranks wait here. The launcher ends them as soon as the first rank has left, so that they print only what
    the first rank did not find.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a run remembers it, to save first: that is over
        time.sleep(PAUSE)
