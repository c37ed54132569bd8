"""Jobs done by several processes, which end with the process that started them, however that ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait as wait_for
from types import ModuleType
from typing import TypeVar

from silc.errors import RunStopped
from silc.storage import Store, open_store

PATIENCE = 120.0  # seconds a store may fail before the job that reads from it fails
WAITING = 4  # handfuls of jobs that wait for each process
HANDFUL = 16  # jobs handed over at once, at most
Job = TypeVar("Job")
Outcome = TypeVar("Outcome")
Work = Callable[[Sequence[Job], Store], list[Outcome]]

_store: Store | None = None  # of this process


def done(
    work: Work[Job, Outcome], jobs: Sequence[Job], processes: int, *, together: int = HANDFUL
) -> Iterator[Outcome]:
    """The outcomes of the jobs, in the order in which they end.

    Args:
        work: of a module; called in the processes with some of the jobs and a store.
        jobs: can be pickled.
        processes: how many; 0: this process does them itself.
        together: jobs handed over at once, at most.

    Raises:
        RunStopped: a process was killed.
    """
    if not processes:
        yield from _here(work, jobs)
        return
    size = max(1, min(together, len(jobs) // (processes * 2 * WAITING)))
    handfuls = iter([jobs[at : at + size] for at in range(0, len(jobs), size)])
    before = set(multiprocessing.active_children())
    # Neither threads nor a store of this process are copied into the others.
    context = multiprocessing.get_context("forkserver")
    # The server of decoding processes too, if there will be any: it must outlive signals (silc.data.worker_server).
    context.set_forkserver_preload(["silc.data.worker_server", work.__module__])
    executor = ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(dict(os.environ),))
    running: set[Future[list[Outcome]]] = set()
    try:
        while True:
            while len(running) < processes * WAITING and (handful := next(handfuls, None)) is not None:
                with _without_main():
                    running.add(executor.submit(_do, work, handful))
            if not running:
                return
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                yield from future.result()
    except BrokenProcessPool:
        raise RunStopped(
            "a process that reads shards was killed, perhaps for want of memory; what is done is kept: start again, "
            "with fewer processes (--jobs)"
        ) from None
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()


@contextmanager
def _without_main() -> Iterator[None]:
    """Processes that are started inside do not run this program's main script again: one without a guard would come
    here again, and wait for the lock of its parent. What they are given needs nothing of it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _here(work: Work[Job, Outcome], jobs: Sequence[Job]) -> Iterator[Outcome]:
    store = open_store(patience=PATIENCE)
    try:
        for job in jobs:
            yield from work([job], store)
    finally:
        store.close()


def _begin(environment: dict[str, str]) -> None:
    """In a new process: the terminal's interrupt is for the first process, and when that is gone this one ends too.

    environment: of the first process; the fork server may have started with another.
    """
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    """End when the process of this sentinel does. Its children are those of the fork server, which does not end before
    them."""
    wait_for([sentinel])
    os._exit(1)


def _do(work: Work[Job, Outcome], jobs: Sequence[Job]) -> list[Outcome]:
    global _store
    if _store is None:
        _store = open_store(patience=PATIENCE)
    return work(jobs, _store)
