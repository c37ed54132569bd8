"""How decoding processes begin and end.

fork is the fastest start and shares the memory of the trainer. Remote shards cannot be read in a forked child once this
process has used obstore, whose threads do not exist there: what they hold stays locked for ever. forkserver and spawn
begin from a fresh interpreter, which costs the imports, for forkserver once a rank.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import threading
from functools import partial
from multiprocessing.context import BaseContext
from typing import Any

from silc.processes import Known, end_with, known

PRELOADED = ["silc.data.worker_server", "silc.data.dataset"]  # modules that the fork server imports before it forks


def context(start: str, *, remote: bool) -> BaseContext:
    """The multiprocessing context of decoding processes.

    Args:
        start: see `data.worker_start`.
        remote: whether they read remote shards.

    Raises ValueError for a way to start that this platform does not have, and for fork where it would hang.
    """
    ways = multiprocessing.get_all_start_methods()
    used = remote and "obstore" in sys.modules
    if start == "auto":
        start = "fork" if "fork" in ways and not used else "forkserver" if "forkserver" in ways else "spawn"
    if start not in ways:
        raise ValueError(f"data.worker_start={start}: this platform has {', '.join(ways)}; take auto")
    if start == "fork" and used:
        raise ValueError(
            "data.worker_start=fork: this process has read a remote store, and a forked child of it would hang; take "
            "auto, forkserver or spawn"
        )
    chosen = multiprocessing.get_context(start)
    if start == "forkserver":
        chosen.set_forkserver_preload(PRELOADED)
    return chosen


def initializer() -> Any:
    """For `worker_init_fn` of a DataLoader made in this process; it can be pickled."""
    return partial(_begin, trainer=os.getpid(), process=known(os.getpid()), environment=dict(os.environ))


def _begin(worker: int, trainer: int, process: Known | None, environment: dict[str, str]) -> None:
    """Take the trainer's environment, and leave its signals to it.

    A fork server has the environment of the time when it was started, which may lack the credentials of a store.

    Signals to stop reach the whole process group; the trainer handles them, and needs its workers to the end. They end
    with it, however that ends: torch's own look at it comes to nothing in a worker that waits to hand over a batch.

    A worker obeys SIGTERM only from the trainer itself: with it a DataLoader ends workers that it cannot reach
    otherwise (while an error is being raised), and a worker that ignored it would keep the trainer from exiting.
    """
    # A full collection would write to every object that a forked worker shares with the trainer, and so copy them all:
    # 87 MiB a worker were measured.
    gc.freeze()
    os.environ.update(environment)
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with, args=(trainer,), daemon=True).start()
    end_with(process)


def _end_with(trainer: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != trainer:
        pass
    with contextlib.suppress(Exception):
        sys.stderr.flush()
    os._exit(0)
