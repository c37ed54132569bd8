"""The endless iterator of training batches.

Global batch k holds stream positions [start + k B, start + (k + 1) B); rank r decodes its contiguous share of them, so
that the ranks' batches, joined in order, are the batch of a single process. Workers take whole batches in turn.
"""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from silc.config import Config
from silc.data.batch import Batch
from silc.data.dataset import BatchDataset, Failure
from silc.data.skips import SkipGuard
from silc.data.training_set import TrainingSet, open_training_set
from silc.data.views.device import left_to
from silc.data.workers import context, initializer
from silc.errors import RunStopped
from silc.storage import Board, Waiting

PAUSE = 1  # seconds between looks at what a worker waits for


def build_loader(
    config: Config,
    *,
    rank: int,
    world: int,
    start_position: int = 0,
    local_from_position: int = 0,
    shards: Sequence[str] | None = None,
    data: TrainingSet | None = None,
    device: torch.device | None = None,
) -> Loader:
    """The training batches of a rank.

    Args:
        config: of the run.
        rank, world: index of this process, and the number of processes.
        start_position: first stream position: the `position` of the last batch used, or 0.
        local_from_position: batches that begin before this position have no local crops.
        shards: in place of config.data.shards and config.data.sources.
        data: opened before; None: opened here.
        device: that :meth:`silc.data.batch.Batch.to` will take batches to, for `views.device=auto`; None: the CPU.

    Raises:
        ValueError: shards that are missing, are not tar files, or have fewer samples than a global batch; a tokenizer
            with more tokens than the model's table; a global batch that the number of ranks does not divide.
    """
    data = open_training_set(config, shards) if data is None else data
    board = Board(max(1, config.data.workers))
    dataset = BatchDataset(
        config,
        data,
        rank=rank,
        world=world,
        local_from_position=local_from_position,
        board=board,
        left=left_to(config.views, torch.device("cpu") if device is None else device),
    )
    return Loader(config, dataset, start_position, data)


class Loader:
    """Endless iterable of this rank's batches, from `start_position` on.

    Args:
        config: of the run.
        dataset: of the rank.
        start_position: see :func:`build_loader`.
        data: what the stream's positions count in.

    Attributes:
        samples_per_pass: number of samples in the shards.
        guard: counts the samples that this rank skipped.
        data: of the samples and their order, plain values: equal ones mean that a position names the same sample.
        board: what the readers of this rank wait for and have read.
    """

    def __init__(self, config: Config, dataset: BatchDataset, start_position: int, data: TrainingSet) -> None:
        self.samples_per_pass = dataset.stream.samples_per_pass
        self.guard = SkipGuard(config.data.max_skipped)
        self.data = {"order": dataset.stream.describe(), **data.describe()}
        self.board = dataset.board
        workers = config.data.workers
        self._batches = DataLoader(
            dataset,
            batch_size=None,
            sampler=_Positions(start_position, config.train.global_batch),
            num_workers=workers,
            prefetch_factor=config.data.prefetch if workers else None,
            collate_fn=_identity,
            worker_init_fn=initializer(),
            pin_memory=torch.cuda.is_available(),
            timeout=PAUSE if workers else 0,
            multiprocessing_context=context(config.data.worker_start, remote=data.remote) if workers else None,
        )

    def __iter__(self) -> Iterator[Batch]:
        return (batch for batch in self.poll() if batch is not None)

    def poll(self) -> Iterator[Batch | None]:
        """As iterating, with None every second in which no batch has arrived.

        Raises RunStopped: samples cannot be read, too many were skipped, or a worker has died.
        """
        batches = _workers_of(self._batches)
        while True:
            try:
                batch = next(batches)
            except RuntimeError as error:
                if _no_data_yet(error, batches):
                    yield None
                    continue
                if not str(error).startswith("DataLoader worker"):
                    raise
                raise _died(error) from error
            except (EOFError, ConnectionError, FileNotFoundError) as error:  # it died while it handed over a tensor
                raise _died(error) from error
            if isinstance(batch, Failure):
                raise RunStopped(batch.reason)
            self.guard.update(batch)
            yield batch

    def waiting(self) -> Waiting | None:
        """What the readers of this rank have waited for the longest; None where none waits."""
        return next(iter(self.board.waiting()), None)


def _workers_of(loader: DataLoader) -> Iterator[Any]:
    """Start a DataLoader's workers, and leave the signal of ended children as it was.

    torch answers it with an error wherever the main thread is, in a step for one, on this rank alone. Whether a worker
    has died is seen at the next batch anyway.
    """
    before = signal.getsignal(signal.SIGCHLD)
    batches = iter(loader)
    if before is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, before)
    return batches


def _no_data_yet(error: RuntimeError, batches: Any) -> bool:
    """Whether a DataLoader has only run into its time limit; asked again, it goes on.

    Raises RunStopped where its thread that copies to page-locked memory has ended, which it does not see itself.
    """
    if not str(error).startswith("DataLoader timed out"):
        return False
    copying = getattr(batches, "_pin_memory_thread", None)
    if copying is not None and not copying.is_alive():
        raise _died(RuntimeError("the thread that hands over their batches is gone")) from error
    return True


def _died(error: Exception) -> RunStopped:
    """A worker that was killed, in words."""
    why = str(error).partition(chr(10))[0] or type(error).__name__
    return RunStopped(
        f"a process that decodes images has ended ({why}): often the machine is out of memory, or of space in "
        "/dev/shm; take fewer data.workers or a smaller data.prefetch"
    )


class _Positions(torch.utils.data.Sampler[int]):
    def __init__(self, start: int, step: int) -> None:
        self._start, self._step = start, step

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self._start, self._step)


def _identity(batch: Any) -> Any:
    return batch
