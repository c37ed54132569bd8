"""How a run ends early on purpose. A mistake that can be known before training starts is a ValueError instead."""

from __future__ import annotations

import os
import time

STOPPED_BY_SIGNAL = 75  # exit status, EX_TEMPFAIL of sysexits.h: run it again


class RunStopped(RuntimeError):
    """Training cannot usefully go on; the message says why and what to do.

    The weights of the last checkpoint are good.
    """


class RunInterrupted(Exception):
    """A signal asked for the end; a checkpoint of the last step is written, and the message names it."""


def speaks() -> bool:
    """Whether this process tells of a mistake that all ranks of a machine find alike: the first one there does.

    The others give it time before they leave, because a launcher ends all ranks when the first one has left.
    """
    if os.environ.get("LOCAL_RANK", "0") == "0":
        return True
    time.sleep(3.0)
    return False
