"""A command that is interrupted from the terminal while it works."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def interrupted(
    command: list[str], environment: dict[str, str], begun: Callable[[], bool]
) -> subprocess.CompletedProcess[str]:
    """Run a command, and interrupt it and its processes, as the terminal does, once `begun` holds.

    Returns when none of its processes is left. Fails where it ends before.
    """
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    # Whatever runs in the background of a shell, the tests too, ignores interruptions, and so would the command.
    obeying = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    started = subprocess.Popen(command, env=environment, cwd=ROOT, preexec_fn=obeying, **pipes)
    until = time.monotonic() + 400
    while not begun():
        assert started.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    os.killpg(started.pid, signal.SIGINT)
    said = started.communicate(timeout=200)
    while _living(started.pid):
        assert time.monotonic() < until
        time.sleep(0.1)
    return subprocess.CompletedProcess(command, started.returncode, *said)


def _living(group: int) -> bool:
    """Whether a group has processes."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
