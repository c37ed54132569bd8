"""This project's stream in the data benchmark: the training loader, or the bytes that it reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch.utils.data import DataLoader, Dataset

from benchmarks.data.streams import CONTEXT, PREFETCH, SEED, Spec, Stored, Taken
from silc.config import Config, DataConfig, ModelConfig, ObjectiveConfig, TextConfig, TrainConfig, ViewsConfig
from silc.data import build_loader
from silc.data.shards import ShardIndex
from silc.data.stream import SampleStream


def config_of(spec: Spec) -> Config:
    """A run that takes whole images, resized, and nothing else."""
    return Config(
        data=DataConfig(shards=[spec.tars], workers=spec.workers, prefetch=PREFETCH, shuffle_block=spec.shuffle_block),
        model=ModelConfig(text=TextConfig(context_length=CONTEXT)),
        views=ViewsConfig(n_global=0, n_local=0, global_size=spec.side),
        objective=ObjectiveConfig(distill=False, contrastive_views="original"),
        train=TrainConfig(global_batch=spec.batch * spec.world, seed=SEED),
    )


def open_ours(spec: Spec) -> Iterable[Taken]:
    """Batches of `pixels` from the training loader; `bytes` from the stream and the reader below it."""
    return _pixels(spec) if spec.kind == "pixels" else _bytes(spec)


def _pixels(spec: Spec) -> Iterator[Taken]:
    for batch in build_loader(config_of(spec), rank=spec.rank, world=spec.world):
        yield Taken(batch.keys, batch.large[:, 0], batch.tokens)


def _bytes(spec: Spec) -> Iterable[Taken]:
    dataset = _Bytes(spec)
    step, samples = spec.batch * spec.world, dataset.stream.samples_per_pass
    positions = range(0, 10**15 if spec.endless else samples, step)
    prefetch = PREFETCH if spec.workers else None
    return DataLoader(dataset, batch_size=None, sampler=positions, num_workers=spec.workers, prefetch_factor=prefetch)


class _Bytes(Dataset[Taken]):
    def __init__(self, spec: Spec) -> None:
        self._spec, self._stored = spec, Stored()
        columns = {"image": ["jpg"], "caption": ["txt"]}
        self._index = ShardIndex([spec.tars], columns, required=("image", "caption"))
        self.stream = SampleStream(self._index.counts, seed=SEED, block=spec.shuffle_block)

    def __getitem__(self, position: int) -> Taken:
        first = position + self._spec.rank * self._spec.batch
        stop = first + self._spec.batch
        if not self._spec.endless:
            stop = min(stop, self.stream.samples_per_pass)
        places = zip(*(numbers.tolist() for numbers in self.stream.locate(first, stop)), strict=True)
        samples = []
        for shard, sample in places:
            key = self._index.key(shard, sample).rpartition("/")[2]
            image, caption = (self._index.read(shard, sample, column) for column in ("image", "caption"))
            assert image is not None
            assert caption is not None
            samples.append(self._stored(key, image, caption))
        return self._stored.collate(samples)
