"""This project's stream in the data benchmark: the training loader, or what its workers read."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import gettempdir
from unittest.mock import patch

from torch.utils.data import DataLoader

from benchmarks.data.streams import CONTEXT, PREFETCH, SEED, Spec, Stored, Taken
from silc.config import Config, DataConfig, ModelConfig, ObjectiveConfig, TextConfig, TrainConfig, ViewsConfig
from silc.data import build_loader
from silc.data.dataset import BatchDataset
from silc.data.shards import Sample, prepare
from silc.data.training_set import TrainingSet, open_training_set
from silc.data.workers import context, initializer
from silc.storage import Board


def config_of(spec: Spec) -> Config:
    """A run that takes whole images, resized, and nothing else."""
    return Config(
        data=DataConfig(shards=[spec.tars], workers=spec.workers, prefetch=PREFETCH),
        model=ModelConfig(text=TextConfig(context_length=CONTEXT)),
        views=ViewsConfig(n_global=0, n_local=0, global_size=spec.side),
        objective=ObjectiveConfig(distill=False, contrastive_views="original"),
        train=TrainConfig(global_batch=spec.batch * spec.world, seed=SEED),
    )


def open_ours(spec: Spec) -> Iterable[Taken]:
    """Batches of `pixels` from the training loader; `bytes` from the stream and the reader below it."""
    return _pixels(spec) if spec.kind == "pixels" else _bytes(spec)


def _pixels(spec: Spec) -> Iterator[Taken]:
    config = config_of(spec)
    for batch in build_loader(config, rank=spec.rank, world=spec.world, data=_opened(config, spec)):
        yield Taken(batch.keys, batch.large[:, 0], batch.tokens)


def _bytes(spec: Spec) -> Iterable[Taken]:
    dataset = _Bytes(spec)
    step, samples = spec.batch * spec.world, dataset.stream.samples_per_pass
    workers = spec.workers
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=range(0, 10**15 if spec.endless else samples, step),
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        worker_init_fn=initializer(),
        multiprocessing_context=context("auto", remote=dataset.remote) if workers else None,
    )


def _opened(config: Config, spec: Spec) -> TrainingSet:
    """As in training: the first rank of a machine looks at the shards, the others open what it left.

    A set that names a file twice is refused. Where the set is faked, the check runs, but what it finds is passed over.
    """
    done = Path(gettempdir()) / "opened_by_rank_0"
    if not spec.rank:
        looked = prepare.twice
        with patch.object(prepare, "twice", lambda files: looked(files) if not spec.faked else looked(files) and None):
            data = open_training_set(config)
        done.touch()
        return data
    while not done.exists():
        time.sleep(0.05)
    return open_training_set(config, prepared=True)


class _Bytes(BatchDataset):
    """The training data without decoding: the same order, index and reader."""

    def __init__(self, spec: Spec) -> None:
        config = config_of(spec)
        board = Board(max(1, spec.workers))
        data = _opened(config, spec)
        super().__init__(config, data, rank=spec.rank, world=spec.world, local_from_position=0, board=board)
        self.remote = data.remote
        self._spec, self._stored = spec, Stored()

    def __getitem__(self, position: int) -> Taken:
        first = position + self._spec.rank * self._spec.batch
        stop = first + self._spec.batch
        if not self._spec.endless:
            stop = min(stop, self.stream.samples_per_pass)
        places = list(zip(*(numbers.tolist() for numbers in self.stream.locate(first, stop)), strict=True))
        samples = []
        for sample in self._reader.read(places):
            assert isinstance(sample, Sample)
            image, caption = sample.column(["jpg"]), sample.column(["txt"])
            assert image is not None
            assert caption is not None
            samples.append(self._stored(sample.key, image, caption))
        return self._stored.collate(samples)
