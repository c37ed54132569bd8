"""What `silc train` does for its job beyond DeepSpeed's launchers: it finds the ranks, waits for those whose launcher
has ended, and learns from each rank how it ended.

A launcher that is killed has its job's ranks go on without it, and one that is asked to stop leaves with status 1 after
ranks that have saved: only they know.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from silc.errors import STOPPED_BY_SIGNAL
from silc.train.ancestors import is_node_launcher, words_of

TOLD = "SILC_TOLD"  # environment variable: the folder in which each rank of this machine writes its exit status
NOTICED = 5.0  # seconds in which a rank notices that its launcher has ended
MAX_STATUS = 16  # bytes
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


def tell(status: int) -> None:
    """Leave this rank's exit status for the `silc` process above it, if there is one."""
    folder, rank = os.environ.get(TOLD), os.environ.get("RANK")
    if folder and rank:
        with contextlib.suppress(OSError):  # it has ended
            Path(folder, rank).write_text(str(status), encoding="utf-8")


def told(folder: Path) -> dict[int, int]:
    """Rank -> exit status, of the ranks that have told theirs."""
    found = {}
    for path in folder.iterdir():
        with contextlib.suppress(OSError, ValueError), path.open("rb") as file:
            found[int(path.name)] = int(file.read(MAX_STATUS))
    return found


def adopt_orphans() -> None:
    """Become the parent of every process below this one whose own parent ends (Linux)."""
    pr_set_child_subreaper = 36  # prctl.h
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1, 0, 0, 0)


def ranks() -> list[psutil.Process]:
    """The ranks below this process."""
    return [process for process in _job() if not is_node_launcher(words_of(process))]


def wait_for_orphans() -> None:
    """Wait for the ranks and node launchers that outlive DeepSpeed's launcher.

    A rank notices its end, and stops; one that does not is asked to. A node launcher that has not started any is ended.
    """
    asked, begun = False, time.monotonic()
    while left := _job():
        late = not asked and time.monotonic() - begun > NOTICED
        asked = asked or late
        for process in left:
            launcher = is_node_launcher(words_of(process))
            if (late and not launcher) or (launcher and not _children(process)):
                with contextlib.suppress(psutil.Error):
                    process.terminate()
        _reap()
        time.sleep(0.2)


def outcome(status: int, told: Mapping[int, int], *, stopped: bool, here: bool) -> int:
    """The exit status of a job.

    Args:
        status: of DeepSpeed's launcher, as of subprocess; 256 - n where a rank was ended by signal n.
        told: statuses of ranks.
        stopped: whether this process was asked to stop it.
        here: whether all ranks are on this machine.
    """
    statuses = set(told.values())
    ended = status < 0 or 256 - status in STOPS
    if status in (0, 1) or ended:
        if STOPPED_BY_SIGNAL in statuses and not statuses - {0, STOPPED_BY_SIGNAL}:
            return STOPPED_BY_SIGNAL  # a launcher that is ended after them has 0 or 1
        if not statuses and stopped and (ended or status == 1):
            return STOPPED_BY_SIGNAL  # before they could tell: nothing was trained
        if status == 0 and (statuses or here):
            return max(statuses, default=1)
    return status


def _job() -> list[psutil.Process]:
    """Node launchers and ranks below this process that have not ended."""
    below = _children(psutil.Process(), recursive=True)
    launchers = [process for process in below if is_node_launcher(words_of(process))]
    found = {process.pid: process for launcher in launchers for process in [launcher, *_children(launcher)]}
    adopted = [process for process in below if process.pid not in found and _ppid(process) == os.getpid()]
    found |= {
        process.pid: process for process in adopted if any(w.startswith("--local_rank=") for w in words_of(process))
    }
    return list(found.values())


def _children(process: psutil.Process, *, recursive: bool = False) -> list[psutil.Process]:
    try:
        return [one for one in process.children(recursive=recursive) if one.status() != psutil.STATUS_ZOMBIE]
    except psutil.Error:
        return []


def _ppid(process: psutil.Process) -> int:
    try:
        return int(process.ppid())
    except psutil.Error:
        return -1


def _reap() -> None:
    """Adopted processes that have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
