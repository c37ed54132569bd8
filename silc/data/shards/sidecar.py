"""The two files beside a shard: where its samples begin, and the hashes of its captions.

``00000.tar.idx``: little-endian u64 [n + 1], the offset of each sample's first header and the end of the last sample,
as megatron-energon writes it. ``00000.tar.cap``: little-endian u64 [n], the caption hash of each sample.

A run reads them in chunks when it needs them: eight bytes a sample are too many to hold for a billion samples.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from silc.data.shards.errors import Unreadable, shorten
from silc.data.shards.manifest import Manifest
from silc.data.shards.tar import RECORD
from silc.storage import Range, Store
from silc.text import plural

WORD = np.dtype("<u8")
CHUNK = 256  # numbers read and kept together: 2 KiB
CHUNKS = 4096  # chunks a process keeps: 8 MiB
LIMIT = 1 << 30  # bytes of a sidecar
MISFIT = "the index does not fit the shard"

Request = tuple[int, int, int]
"""Shard, first sample, samples: at least one, all of them in the shard."""


def packed(numbers: np.ndarray) -> bytes:
    """The bytes of a sidecar."""
    return np.ascontiguousarray(numbers, dtype=WORD).tobytes()


def offsets_of(data: bytes, size: int, shard: str) -> np.ndarray:
    """The offsets in the bytes of a sidecar, uint64 [n + 1].

    Args:
        data: of the sidecar.
        size: of the tar, in bytes.
        shard: its name, for messages.

    Raises ValueError for what cannot be the offsets of a tar of that size.
    """
    if not data or len(data) % WORD.itemsize or len(data) > LIMIT:
        raise _damaged(shard, f"{plural(len(data), 'byte')} are no list of offsets")
    offsets = np.frombuffer(data, WORD)
    if not _fit(offsets, size):
        raise _damaged(shard, "its offsets do not rise within the shard")
    return offsets


def hashes_of(data: bytes, samples: int, shard: str) -> np.ndarray:
    """The caption hashes in the bytes of a sidecar, uint64 [samples]. Raises ValueError for another number of them."""
    if len(data) != samples * WORD.itemsize:
        raise _damaged(shard, f"{plural(len(data), 'byte')} are not the hashes of {plural(samples, 'caption')}")
    return np.frombuffer(data, WORD)


def _damaged(shard: str, why: str) -> ValueError:
    return ValueError(f"the index of {shorten(shard)} is damaged ({why}); make it again with `silc shards index`")


def _fit(offsets: np.ndarray, size: int, *, last: bool = True) -> bool:
    """Whether offsets rise from header to header within a tar. last: whether the last of them ends the samples: where
    the tar is cut, that is no multiple of a record."""
    headers = offsets[:-1] if last else offsets
    rising = bool((offsets[1:] > offsets[:-1]).all())
    return rising and int(offsets[-1]) <= size and not (headers % RECORD).any()


class _Sidecars:
    """Numbers from the sidecars of a manifest's shards, read in chunks, of which the last used are kept.

    Args:
        manifest: of the shards.
        store: reads the chunks.
        address: of a shard's sidecar, by its number.
        extra: numbers in a sidecar beyond one a sample.
        chunks: how many are kept.
    """

    def __init__(
        self, manifest: Manifest, store: Store, address: Callable[[int], str], extra: int, chunks: int
    ) -> None:
        self._manifest, self._store, self._limit = manifest, store, chunks
        self._address, self._extra = address, extra
        self._kept: OrderedDict[tuple[int, int], bytes] = OrderedDict()

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_kept": OrderedDict()}  # what is kept belongs to a process

    def _gather(self, requests: Sequence[Request]) -> Iterator[np.ndarray | None]:
        """The numbers of each request, uint64 [samples + extra], all that is missing read at once; None where the
        sidecar is shorter than that."""
        wanted = [[(shard, chunk) for chunk in self._chunks(first, count)] for shard, first, count in requests]
        found = self._load(dict.fromkeys(place for places in wanted for place in places))
        for (_, first, count), places in zip(requests, wanted, strict=True):
            data = b"".join(found[place] for place in places)
            begin = first % CHUNK
            numbers = np.frombuffer(data[: len(data) // WORD.itemsize * WORD.itemsize], WORD)
            numbers = numbers[begin : begin + count + self._extra]
            yield numbers if len(numbers) == count + self._extra else None

    def _chunks(self, first: int, count: int) -> range:
        return range(first // CHUNK, (first + count + self._extra - 1) // CHUNK + 1)

    def _load(self, places: Iterable[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
        """The bytes of chunks, from memory or from the store in one read."""
        found, missing = {}, []
        for place in places:
            if place in self._kept:
                self._kept.move_to_end(place)
                found[place] = self._kept[place]
            else:
                missing.append(place)
        runs = list(_runs(sorted(missing)))
        ranges = [self._range(shard, first, stop) for shard, first, stop in runs]
        step = CHUNK * WORD.itemsize
        for (shard, first, stop), data in zip(runs, self._store.read(ranges) if ranges else [], strict=True):
            for number in range(first, stop):
                at = (number - first) * step
                self._keep((shard, number), found, data[at : at + step])
        return found

    def _keep(self, place: tuple[int, int], found: dict[tuple[int, int], bytes], data: bytes) -> None:
        found[place] = data
        self._kept[place] = data
        if len(self._kept) > self._limit:
            self._kept.popitem(last=False)

    def _range(self, shard: int, first: int, stop: int) -> Range:
        """Bytes of the chunks [first, stop)."""
        numbers = int(self._manifest.samples[shard]) + self._extra
        return Range(self._address(shard), first * CHUNK * WORD.itemsize, min(stop * CHUNK, numbers) * WORD.itemsize)


def _runs(places: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """(shard, first, stop) of neighbouring chunks of sorted places."""
    begin = 0
    for i in range(1, len(places) + 1):
        if i == len(places) or places[i] != (places[i - 1][0], places[i - 1][1] + 1):
            yield places[begin][0], places[begin][1], places[i - 1][1] + 1
            begin = i


class Offsets(_Sidecars):
    """Where samples lie in their shards."""

    def __init__(self, manifest: Manifest, store: Store, *, chunks: int = CHUNKS) -> None:
        super().__init__(manifest, store, manifest.sidecar, 1, chunks)

    def lookup(self, requests: Sequence[Request]) -> list[np.ndarray | Unreadable]:
        """For each request the offsets of its samples and the end of the last, uint64 [samples + 1].

        What is not in memory is read at once. In place of offsets that cannot be those of the shard stands an
        Unreadable, for the caller to raise when it comes to these samples.

        Raises :class:`silc.errors.StoreFailed`.
        """
        results: list[np.ndarray | Unreadable] = []
        for (shard, first, count), offsets in zip(requests, self._gather(requests), strict=True):
            last = first + count == self._manifest.samples[shard]
            size = int(self._manifest.sizes[shard])
            fits = offsets is not None and _fit(offsets, size, last=bool(last))
            results.append(offsets if fits and offsets is not None else Unreadable(MISFIT))
        return results


class Hashes(_Sidecars):
    """Caption hashes of samples."""

    def __init__(self, manifest: Manifest, store: Store, *, chunks: int = CHUNKS) -> None:
        super().__init__(manifest, store, manifest.hashes, 0, chunks)

    def lookup(self, requests: Sequence[Request]) -> list[np.ndarray | Unreadable]:
        """For each request the hashes of its samples, uint64 [samples]; otherwise as :meth:`Offsets.lookup`."""
        return [Unreadable(MISFIT) if hashes is None else hashes for hashes in self._gather(requests)]
