"""The endless iterator of training batches.

Global batch k holds stream positions [start + k B, start + (k + 1) B); rank r decodes its contiguous share of them, so
that the ranks' batches, joined in order, are the batch of a single process. Workers take whole batches in turn.
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from silc.config import Config
from silc.data.batch import Batch, Skip
from silc.data.crops import MultiCrop
from silc.data.decode import decode_caption, decode_image
from silc.data.randomness import Purpose, uniform_rows
from silc.data.shards import ShardIndex, Unreadable
from silc.data.stream import SampleStream, deal
from silc.data.tokenizer import build_tokenizer
from silc.errors import RunStopped
from silc.text import plural

log = logging.getLogger(__name__)

Place = tuple[int, int]  # shard, and sample in it

SUBSTITUTES = 64  # tries to replace an unreadable sample
RECENT = 16384  # samples over which the share of skipped ones is computed
FEWEST = 256  # the share is computed over at least this many, so that a few early skips do not end a run
LOGGED = 5  # skips that are logged one by one; afterwards each time their number has doubled


def build_loader(
    config: Config,
    *,
    rank: int,
    world: int,
    start_position: int = 0,
    local_from_position: int = 0,
    shards: Sequence[str] | None = None,
) -> Loader:
    """The training batches of a rank.

    Args:
        config: of the run.
        rank, world: index of this process, and the number of processes.
        start_position: first stream position: the `position` of the last batch used, or 0.
        local_from_position: batches that begin before this position have no local crops.
        shards: in place of config.data.shards.

    Raises:
        ValueError: shards that are missing, are not tar files, or have fewer samples than a global batch; a tokenizer
            with more tokens than the model's table; a global batch that the number of ranks does not divide.
    """
    dataset = BatchDataset(config, rank=rank, world=world, local_from_position=local_from_position, shards=shards)
    return Loader(config, dataset, start_position)


class BatchDataset(Dataset[Batch]):
    """Maps the start position of a global batch to this rank's share: a pure function. See :func:`build_loader`."""

    def __init__(
        self, config: Config, *, rank: int, world: int, local_from_position: int, shards: Sequence[str] | None
    ) -> None:
        data, batch = config.data, config.train.global_batch
        if batch % world:
            raise ValueError(f"train.global_batch={batch} is not divisible by the {world} ranks")
        self._global_batch = batch
        self._share = batch // world
        self._offset = rank * self._share
        columns = {"image": data.image_keys, "caption": [data.caption_key]}
        patterns = data.shards if shards is None else shards
        self._index = ShardIndex(patterns, columns, required=("image", "caption"))
        samples = sum(self._index.counts)
        if samples < batch:
            raise ValueError(
                f"train.global_batch={batch} is more than the {plural(samples, 'sample')} of {list(patterns)}; "
                "take a smaller batch or add shards"
            )
        arrange = self._deal if data.unique_captions else None
        self.stream = SampleStream(
            [self._index.counts], seed=config.train.seed, block=data.shuffle_block, batch=batch, arrange=arrange
        )
        text = config.model.text
        self._tokenizer = build_tokenizer(data.tokenizer, text.context_length)
        if self._tokenizer.vocab_size > text.vocab_size:
            raise ValueError(
                f"model.text.vocab_size={text.vocab_size} is less than the {self._tokenizer.vocab_size} tokens of "
                f"data.tokenizer={data.tokenizer}; set at least that many"
            )
        self._crops = MultiCrop(config.views, config.n_original)
        self._views, self._n_original = config.views, config.n_original
        self._seed, self._max_pixels = config.train.seed, data.max_image_pixels
        self._local_from = local_from_position

    def __getitem__(self, position: int) -> Batch:
        first, views, b = position + self._offset, self._views, self._share
        large = _empty(b, self._n_original + views.n_global, views.global_size)
        with_locals = views.n_local > 0 and position >= self._local_from
        small = _empty(b, views.n_local, views.local_size) if with_locals else None
        places = zip(*(numbers.tolist() for numbers in self.stream.locate(first, first + b)), strict=True)
        rows = uniform_rows(self._seed, Purpose.CROPS, first, b, self._crops.width)
        keys: list[str] = []
        captions: list[str] = []
        skipped: list[Skip] = []
        for i, place in enumerate(places):
            place, image, caption = self._read(first + i, place, skipped)
            self._crops(image, rows[i].tolist(), large[i], None if small is None else small[i])
            keys.append(self._index.key(*place))
            captions.append(caption)
        tokens = self._tokenizer(captions)
        after = position + self._global_batch
        return Batch(large, small, tokens, keys, self._n_original, after, skipped)

    def _read(self, position: int, place: Place, skipped: list[Skip]) -> tuple[Place, torch.Tensor, str]:
        """The sample at a position, or in place of an unreadable one another, chosen by the position alone."""
        for candidate in itertools.chain([place], self._substitutes(position, place)):
            try:
                caption = decode_caption(self._index.read(*candidate, "caption"))
                return candidate, decode_image(self._index.read(*candidate, "image"), self._max_pixels), caption
            except Unreadable as error:
                skipped.append(Skip(self._index.key(*candidate), str(error)))
        raise RunStopped(
            f"no readable sample in {SUBSTITUTES + 1} tries at stream position {position}, last "
            f"{skipped[-1].key}: {skipped[-1].reason}; check the shards"
        )

    def _substitutes(self, position: int, place: Place) -> Iterator[Place]:
        for u in uniform_rows(self._seed, Purpose.SUBSTITUTE, position, 1, SUBSTITUTES)[0].tolist():
            yield self.stream.substitute(place[0], u)

    def _deal(self, shards: np.ndarray, samples: np.ndarray, first: int) -> np.ndarray:
        places = zip(shards.tolist(), samples.tolist(), strict=True)
        numbers: dict[str, int] = {}
        keys = [self._caption_key(*place) for place in places]
        return deal(np.array([numbers.setdefault(key, len(numbers)) for key in keys]), first, self._global_batch)

    def _caption_key(self, shard: int, sample: int) -> str:
        """The key by which captions are compared: case and spacing are ignored, a missing caption equals no other."""
        try:
            return " ".join(decode_caption(self._index.read(shard, sample, "caption")).casefold().split())
        except Unreadable:
            return f"\0{shard}/{sample}"


def _empty(samples: int, views: int, size: int) -> torch.Tensor:
    return torch.empty(samples, views, 3, size, size, dtype=torch.uint8)


class SkipGuard:
    """Counts and logs skipped samples, and ends the run when there are too many.

    Args:
        max_skipped: largest allowed share of the last RECENT samples.
    """

    def __init__(self, max_skipped: float) -> None:
        self._max_skipped = max_skipped
        self._recent: deque[tuple[int, int]] = deque()  # (samples used, samples skipped) of each batch
        self._used, self._skipped, self._reported = 0, 0, LOGGED
        self.total = 0
        self.reasons: Counter[str] = Counter()

    def update(self, batch: Batch) -> None:
        """Count a batch. Raises RunStopped past the limit."""
        for skip in batch.skipped:
            self.total += 1
            self.reasons[skip.reason] += 1
            if self.total <= LOGGED:
                log.warning("skipped %s: %s", *skip)
            elif self.total >= 2 * self._reported:
                self._reported = self.total
                log.warning("skipped %d samples so far (%s), last %s", self.total, self._summary(), skip.key)
        self._recent.append((len(batch), len(batch.skipped)))
        self._used += len(batch)
        self._skipped += len(batch.skipped)
        while self._used - self._recent[0][0] >= RECENT:
            used, skipped = self._recent.popleft()
            self._used -= used
            self._skipped -= skipped
        seen = self._used + self._skipped
        if self._skipped > self._max_skipped * max(seen, FEWEST):
            raise RunStopped(
                f"skipped {self._skipped} of the last {plural(seen, 'sample')} ({self._summary()}), last "
                f"{batch.skipped[-1].key}: more than data.max_skipped={self._max_skipped} allows; "
                "repair the shards or raise the limit"
            )

    def _summary(self) -> str:
        return ", ".join(f"{reason}: {count}" for reason, count in self.reasons.most_common())


class Loader:
    """Endless iterable of this rank's batches, from `start_position` on.

    Attributes:
        samples_per_pass: number of samples in the shards.
        guard: counts the samples that this rank skipped.
    """

    def __init__(self, config: Config, dataset: BatchDataset, start_position: int) -> None:
        self.samples_per_pass = dataset.stream.samples_per_pass
        self.guard = SkipGuard(config.data.max_skipped)
        workers = config.data.workers
        self._batches = DataLoader(
            dataset,
            batch_size=None,
            sampler=_Positions(start_position, config.train.global_batch),
            num_workers=workers,
            prefetch_factor=config.data.prefetch if workers else None,
            collate_fn=_identity,
            worker_init_fn=_ignore_signals,
            pin_memory=torch.cuda.is_available(),
        )

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
            self.guard.update(batch)
            yield batch


class _Positions(torch.utils.data.Sampler[int]):
    def __init__(self, start: int, step: int) -> None:
        self._start, self._step = start, step

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self._start, self._step)


def _identity(batch: Any) -> Any:
    return batch


def _ignore_signals(worker: int) -> None:
    """Signals to stop reach the whole process group; the trainer handles them, and needs its workers to the end.

    A worker obeys SIGTERM only from the trainer itself: with it a DataLoader ends workers that it cannot reach
    otherwise (while an error is being raised), and a worker that ignored it would keep the trainer from exiting.
    """
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_the_trainer, daemon=True).start()


def _end_with_the_trainer() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
