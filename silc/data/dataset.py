"""One rank's share of a global batch, from its position in the stream: a pure function."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from silc.config import Config, DataConfig
from silc.data.batch import Batch, Skip
from silc.data.captions import CaptionReader
from silc.data.images.decode import decode_image
from silc.data.peek import check_captions
from silc.data.randomness import Purpose, uniform_rows
from silc.data.shards import Sample, Unreadable
from silc.data.shards.reader import Place, SampleReader, Unusable
from silc.data.stream import Arrange, SampleStream, deal
from silc.data.tokenizer import tokenizer_of
from silc.data.training_set import TrainingSet
from silc.data.views.crops import MultiCrop, ViewPlan
from silc.data.views.device import ALL_HERE, Left, leave
from silc.errors import RunStopped
from silc.storage import Board, NodeCache, Store, is_remote, open_store, shorten
from silc.text import plural

SUBSTITUTES = 64  # tries to replace an unreadable sample


class Failure(NamedTuple):
    """In place of a batch: why there is none. An exception would reach the trainer wrapped in a worker's traceback."""

    reason: str


class BatchDataset(Dataset["Batch | Failure"]):
    """Maps the start position of a global batch to this rank's share. See :func:`silc.data.loader.build_loader`.

    Attributes:
        stream: the order.
        board: where readers note what they wait for.
    """

    def __init__(
        self,
        config: Config,
        data: TrainingSet,
        *,
        rank: int,
        world: int,
        local_from_position: int,
        board: Board,
        left: Left = ALL_HERE,
    ) -> None:
        batch = config.train.global_batch
        if batch % world:
            raise ValueError(f"train.global_batch={batch} is not divisible by the {world} ranks")
        self._global_batch = batch
        self._share = batch // world
        self._offset = rank * self._share
        self._images = [name.lower() for name in config.data.image_keys]
        self._captions = CaptionReader(config.data.caption_key, lines=config.data.caption_lines)
        self._captions_checked = not data.remote  # those of local shards are, before training
        self.board = board
        self._patience = config.data.store_minutes * 60
        self._reader = SampleReader(data.manifest, self._open_store, self._note_used)
        self.stream = _stream(config, data, self._deal if config.data.unique_captions else None)
        self._cache = _cache(config.data, data, self.stream.block)
        self._tokenizer = tokenizer_of(config)
        self._crops = MultiCrop(config.views, config.n_original)
        self._views, self._n_original, self._left = config.views, config.n_original, left
        self._seed, self._max_pixels = config.train.seed, config.data.max_image_pixels
        self._upright = config.data.upright
        self._local_from = local_from_position

    def __getitem__(self, position: int) -> Batch | Failure:
        try:
            return self._batch(position)
        except RunStopped as error:
            return Failure(str(error))

    def _batch(self, position: int) -> Batch:
        first, views, b = position + self._offset, self._views, self._share
        where = "meta" if self._left.crops else "cpu"
        large = _empty(b, self._n_original + views.n_global, views.global_size, where)
        with_locals = views.n_local > 0 and position >= self._local_from
        small = _empty(b, views.n_local, views.local_size, where) if with_locals else None
        places = list(zip(*(numbers.tolist() for numbers in self.stream.locate(first, first + b)), strict=True))
        rows = uniform_rows(self._seed, Purpose.CROPS, first, b, self._crops.width)
        keys: list[str] = []
        captions: list[str] = []
        skipped: list[Skip] = []
        plans: list[ViewPlan] = []
        images: list[torch.Tensor] = []
        for i, (place, found) in enumerate(zip(places, self._read(places), strict=True)):
            key, image, caption = self._usable(first + i, place, found, skipped)
            plans.append(self._crops.plan(image.shape[0], image.shape[1], rows[i].tolist()))
            if self._left.crops:
                images.append(image)
            else:
                here = replace(plans[-1], photometric=None) if self._left.photometric else plans[-1]
                self._crops.cut(image, here, large[i], None if small is None else small[i])
            keys.append(key)
            captions.append(caption)
        tokens, truncated = self._tokenizer.tokenize(captions)
        after = position + self._global_batch
        work = leave(self._left, plans, images, self._n_original) if any(self._left) else None
        return Batch(large, small, tokens, keys, self._n_original, after, skipped, work, truncated)

    def _usable(
        self, position: int, place: Place, found: Sample | Unusable, skipped: list[Skip]
    ) -> tuple[str, torch.Tensor, str]:
        """Key, image and caption of the sample at a position, or of another, chosen by the position alone."""
        others = ((other, next(self._reader.read([other]))) for other in self._substitutes(position, place))
        for candidate, sample in itertools.chain([(place, found)], others):
            try:
                return self._decoded(position, candidate, sample)
            except Unreadable as error:
                skipped.append(Skip(self._key(candidate, sample), str(error)))
        raise RunStopped(
            f"no readable sample in {SUBSTITUTES + 1} tries at stream position {position}, last "
            f"{skipped[-1].key}: {skipped[-1].reason}; check the shards"
        )

    def _read(self, places: Sequence[Place]) -> Iterator[Sample | Unusable]:
        """The samples of a batch. Raises RunStopped where the captions of the first one are none at all."""
        found = self._reader.read(places)
        if self._captions_checked:
            return found
        self._captions_checked = True
        samples = list(found)
        try:
            check_captions(samples, self._captions)
        except ValueError as error:
            raise RunStopped(str(error)) from None
        return iter(samples)

    def _decoded(self, position: int, place: Place, sample: Sample | Unusable) -> tuple[str, torch.Tensor, str]:
        if isinstance(sample, Unusable):
            raise Unreadable(sample.reason)
        captions = self._captions.read(sample.column([self._captions.extension]))
        caption = captions[0]
        if len(captions) > 1:
            (u,) = uniform_rows(self._seed, Purpose.CAPTION, position, 1, 1)[0].tolist()
            caption = captions[int(u * len(captions))]
        image = decode_image(sample.column(self._images), self._max_pixels, upright=self._upright)
        return self._key(place, sample), image, caption

    def _key(self, place: Place, sample: Sample | Unusable) -> str:
        """Name in logs: shard/key, or shard/#number where the key cannot be read."""
        shard, number = place
        return f"{self._reader.name(shard)}/{sample.key or f'#{number}'}"

    def _substitutes(self, position: int, place: Place) -> Iterator[Place]:
        for u in uniform_rows(self._seed, Purpose.SUBSTITUTE, position, 1, SUBSTITUTES)[0].tolist():
            yield self.stream.substitute(place[0], u)

    def _deal(self, shards: np.ndarray, samples: np.ndarray, first: int) -> np.ndarray:
        return deal(self._reader.hashes(shards, samples), first, self._global_batch)

    def _open_store(self) -> Store:
        return open_store(patience=self._patience, board=self.board, worker=_worker(), cache=self._cache)

    def _note_used(self, size: int) -> None:
        self.board.notes(_worker()).add(bytes_used=size)


def _worker() -> int:
    """Number of this worker process; 0 where there is none."""
    found = get_worker_info()
    return 0 if found is None else found.id


def _stream(config: Config, data: TrainingSet, arrange: Arrange | None) -> SampleStream:
    """The order of samples. Raises ValueError for sources so small that a batch would hold samples several times."""
    batch, several = config.train.global_batch, len(data.sources) > 1
    stream = SampleStream(
        data.counts(),
        weights=[source.weight for source in data.sources] if several else None,
        seed=config.train.seed,
        block=config.data.shuffle_block,
        batch=batch,
        arrange=arrange,
    )
    if not several and data.sources[0].samples < batch:
        source = data.sources[0]
        raise ValueError(
            f"train.global_batch={batch} is more than the {plural(source.samples, 'sample')} of {source.name}; take a "
            "smaller batch or add shards"
        )
    total = sum(source.weight for source in data.sources)
    for source in data.sources if several else ():
        # The passes of a source that begin in one block are mixed with each other there.
        if source.samples < (wanted := math.ceil(stream.block * source.weight / total)):
            raise ValueError(
                f"{source.name} has {plural(source.samples, 'sample')}, and a block of {stream.block} takes {wanted} "
                "of it, so that a batch would hold some several times; lower its weight, take a smaller "
                "data.shuffle_block or train.global_batch, or add shards"
            )
    return stream


def _cache(config: DataConfig, data: TrainingSet, block: int) -> NodeCache | None:
    """The machine's cache of remote shards. Raises ValueError for one that cannot be used, or would be of no use."""
    if config.cache is None:
        return None
    if is_remote(config.cache):
        raise ValueError(f"data.cache={shorten(config.cache)} is not on a local disk; give a folder")
    if not data.remote:
        raise ValueError(f"data.cache={config.cache} has no effect, since all shards are local; leave it out")
    size = round(config.cache_gb * 1e9)
    needed = 2 * block * data.manifest.sizes.sum() / data.manifest.samples.sum()
    if size < needed:
        raise ValueError(
            f"data.cache_gb={config.cache_gb:g} is less than two blocks of {plural(block, 'sample')}, so that nothing "
            f"would be found in it again; take at least {needed / 1e9:.2g}"
        )
    try:
        return NodeCache(config.cache, size, data.versions())
    except ValueError as error:
        raise ValueError(f"data.cache: {error}") from None


def _empty(samples: int, views: int, size: int, device: str) -> torch.Tensor:
    return torch.empty(samples, views, 3, size, size, dtype=torch.uint8, device=device)
