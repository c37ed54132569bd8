"""What a decoding process does first."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
from torch.utils.data import DataLoader, Dataset

from silc.data.workers import context, initializer

ROOT = Path(__file__).resolve().parents[2]
# Its workers wait for room in a full pipe: each batch is larger than it holds.
TRAINER = """
import os, signal, time
from torch.utils.data import DataLoader
from silc.data.workers import context, initializer
batches = [b"x" * 300_000] * 100
loader = DataLoader(batches, batch_size=None, num_workers=2, prefetch_factor=8, worker_init_fn=initializer(),
                    multiprocessing_context=context("fork", remote=False))
found = iter(loader)
next(found)
time.sleep(60)
"""


def test_workers_end_with_a_trainer_that_is_killed_and_not_by_signals_to_all():
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}"}
    with subprocess.Popen([sys.executable, "-c", TRAINER], env=env, start_new_session=True) as trainer:
        ends = time.monotonic() + 60
        workers: list[psutil.Process] = []
        while len(workers) < 2:
            assert time.monotonic() < ends
            time.sleep(0.1)
            workers = psutil.Process(trainer.pid).children()
        time.sleep(1)
        for worker in workers:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
                worker.send_signal(number)
        time.sleep(0.2)
        assert all(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)
        trainer.kill()
    _, alive = psutil.wait_procs(workers, timeout=30)
    for worker in alive:
        worker.kill()
    assert not alive


class Frozen(Dataset[int]):
    """How many objects the collector of the reading process passes over."""

    def __getitem__(self, position: int) -> int:
        return gc.get_freeze_count()

    def __len__(self) -> int:
        return 1


def test_a_workers_collector_passes_over_what_it_shares_with_the_trainer():
    objects = len(gc.get_objects())
    loader = DataLoader(
        Frozen(),
        batch_size=None,
        num_workers=1,
        worker_init_fn=initializer(),
        multiprocessing_context=context("fork", remote=False),
    )
    assert next(iter(loader)) > 0.9 * objects > 0
    assert gc.get_freeze_count() < objects
