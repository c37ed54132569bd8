"""From places to samples: one range of bytes for each run of neighbours, many ranges asked for at once.

A reader belongs to a process: its store is opened with the first read, so that it can be made in a parent and sent to
workers, however they are started.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from silc.data.shards.errors import Unreadable
from silc.data.shards.manifest import Manifest
from silc.data.shards.samples import Sample, first_key, parse
from silc.data.shards.sidecar import Hashes, Offsets
from silc.errors import StoreFailed
from silc.storage import Range, Store, is_remote, name_of, shorten

MAX_SAMPLE = 256 << 20  # bytes; a larger one is not read
LONGEST = 16 << 20  # bytes of a range; a longer run is read in parts
AT_ONCE = 64 << 20  # bytes asked for at once, all of which are held
# A sample between two that are wanted is read with them where that saves a request. On a disk a request costs less.
REMOTE_GAP, LOCAL_GAP = 1, 0

Place = tuple[int, int]  # shard, and sample in it


class Unusable(NamedTuple):
    """A sample that cannot be used: the reason, one of a few, and its key where that can be read."""

    reason: str
    key: str | None = None


class _Run(NamedTuple):
    """Wanted samples of one shard, close together."""

    shard: int
    first: int  # sample
    wanted: list[int]  # samples, counted from `first`


class _Piece(NamedTuple):
    """A range of bytes, and the samples to take from it: offsets [start, stop) of each inside the range."""

    bytes: Range
    samples: list[tuple[int, int]]


class _Opened(NamedTuple):
    store: Store
    offsets: Offsets
    hashes: Hashes


class _Stopping:
    """A store whose refusals of an address or a setting stop the run: it has begun."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        """See :class:`silc.storage.Store`."""
        try:
            return self._store.read(ranges)
        except ValueError as error:
            raise StoreFailed(str(error)) from error

    def close(self) -> None:
        """See :class:`silc.storage.Store`."""
        self._store.close()


class SampleReader:
    """Reads the samples of a list of shards.

    Args:
        manifest: the shards.
        open_store: called in the process that reads, at its first read.
        used: told how many of the bytes that were read belong to the samples that were asked for.
    """

    def __init__(
        self, manifest: Manifest, open_store: Callable[[], Store], used: Callable[[int], None] = lambda _: None
    ) -> None:
        self.manifest = manifest
        self._open_store, self._used = open_store, used
        self._opened: _Opened | None = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_opened": None}  # belongs to a process

    def name(self, shard: int) -> str:
        """The shard's name in logs: that of its file, without the ending."""
        return name_of(self.manifest.addresses[shard]).removesuffix(".tar")

    def read(self, places: Sequence[Place]) -> Iterator[Sample | Unusable]:
        """The sample of each place, in order, or why it cannot be used. Raises StoreFailed."""
        store, offsets, _ = self._open()
        runs = list(_runs(places, self._gap))
        edges = offsets.lookup([(run.shard, run.first, run.wanted[-1] + 1) for run in runs])
        held: list[_Piece | Unusable] = []
        size = 0
        for run, found in zip(runs, edges, strict=True):
            for piece in self._pieces(run, found):
                length = piece.bytes.stop - piece.bytes.start if isinstance(piece, _Piece) else 0
                if held and size + length > AT_ONCE:
                    yield from self._samples(store, held)
                    held, size = [], 0
                held.append(piece)
                size += length
        yield from self._samples(store, held)

    def _samples(self, store: Store, pieces: Sequence[_Piece | Unusable]) -> Iterator[Sample | Unusable]:
        found = iter(store.read([piece.bytes for piece in pieces if isinstance(piece, _Piece)]))
        self._used(sum(b - a for piece in pieces if isinstance(piece, _Piece) for a, b in piece.samples))
        for piece in pieces:
            if isinstance(piece, Unusable):
                yield piece
                continue
            data = memoryview(next(found))
            for start, stop in piece.samples:
                yield _sample(data[start:stop])

    def hashes(self, shards: np.ndarray, samples: np.ndarray) -> np.ndarray:
        """Caption hash of each place, uint64 [n]; the places are int64 [n] each.

        Raises StoreFailed also for hashes that do not fit their shard: the order depends on them, on every rank.
        """
        order = np.lexsort((samples, shards))
        runs = list(_runs(list(zip(shards[order].tolist(), samples[order].tolist(), strict=True)), lambda _: 64))
        found = self._open().hashes.lookup([(run.shard, run.first, run.wanted[-1] + 1) for run in runs])
        parts = []
        for run, values in zip(runs, found, strict=True):
            if isinstance(values, Unreadable):
                raise StoreFailed(
                    f"{shorten(self.manifest.hashes(run.shard))} does not fit its shard; make the index again with "
                    "`silc shards index --captions`"
                )
            parts.append(values[run.wanted])
        out = np.empty(len(order), dtype=np.uint64)
        out[order] = np.concatenate(parts)
        return out

    def close(self) -> None:
        """Close what is open; reading opens it again."""
        if self._opened is not None:
            self._opened.store.close()
        self._opened = None

    def _open(self) -> _Opened:
        if self._opened is None:
            store = _Stopping(self._open_store())
            self._opened = _Opened(store, Offsets(self.manifest, store), Hashes(self.manifest, store))
        return self._opened

    def _gap(self, shard: int) -> int:
        return REMOTE_GAP if is_remote(self.manifest.addresses[shard]) else LOCAL_GAP

    def _pieces(self, run: _Run, edges: np.ndarray | Unreadable) -> Iterator[_Piece | Unusable]:
        """A run cut at borders of samples into ranges of bounded length, the first and last byte wanted in each."""
        if isinstance(edges, Unreadable):
            yield from (Unusable(str(edges)) for _ in run.wanted)
            return
        address = self.manifest.addresses[run.shard]
        borders = edges.tolist()
        spans: list[tuple[int, int]] = []
        for sample in run.wanted:
            start, stop = borders[sample], borders[sample + 1]
            if spans and (stop - spans[0][0] > LONGEST or stop - start > MAX_SAMPLE):
                yield _piece(address, spans)
                spans = []
            if stop - start > MAX_SAMPLE:
                yield Unusable(f"larger than {MAX_SAMPLE >> 20} MiB")
            else:
                spans.append((start, stop))
        if spans:
            yield _piece(address, spans)


def _runs(places: Sequence[Place], gap: Callable[[int], int]) -> Iterator[_Run]:
    """Places one after another in a shard, with at most gap(shard) samples between two, as one run."""
    run: _Run | None = None
    allowed = 0
    for shard, sample in places:
        if run is not None and shard == run.shard and 0 < sample - run.first - run.wanted[-1] <= allowed + 1:
            run.wanted.append(sample - run.first)
            continue
        if run is not None:
            yield run
        run, allowed = _Run(shard, sample, [0]), gap(shard)
    if run is not None:
        yield run


def _piece(address: str, spans: list[tuple[int, int]]) -> _Piece:
    start = spans[0][0]
    return _Piece(Range(address, start, spans[-1][1]), [(a - start, b - start) for a, b in spans])


def _sample(data: memoryview) -> Sample | Unusable:
    try:
        return parse(data)
    except Unreadable as error:
        return Unusable(str(error), first_key(lambda start, stop: bytes(data[start:stop]), len(data)))
