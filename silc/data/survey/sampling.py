"""Random samples of a set of shards, found through its index: only what is looked at is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from silc.data.shards.build import IMAGES, Progress, build
from silc.data.shards.manifest import Manifest, joined
from silc.data.shards.manifest_file import prefix_of
from silc.data.shards.places import LOCK, Say, cache_of, made, only_one
from silc.data.shards.reader import Place, SampleReader, Unusable
from silc.data.shards.samples import Sample
from silc.data.shards.sidecar import WORD
from silc.data.shards.stats import Stats
from silc.data.shards.wanted import numbers_of
from silc.data.survey.addresses import Named, candidates
from silc.storage import is_remote, open_store, shorten

BATCH = 256  # samples read at once
PATIENCE = 120.0  # seconds that a store may fail


class Opened(NamedTuple):
    """Shards with an index, and (name, why) of those that cannot be indexed."""

    manifest: Manifest
    unreadable: list[tuple[str, str]]


def open_index(
    named: Named,
    images: Sequence[str],
    *,
    jobs: int | None = None,
    progress: Progress | None = None,
    say: Say = lambda _: None,
) -> Opened:
    """The index that is named or lies beside the shards if it fits them, or else, of local shards, one in the cache,
    made or mended.

    Args:
        named: the shards.
        images: extensions of images.
        jobs: processes that read headers; None: one a processor.
        progress: told after each few shards that are read.
        say: told when another process is waited for.

    Raises:
        ValueError: remote shards without an index, or a cache that cannot be written to.
        StoreFailed, RunStopped: an index cannot be read, or written.
    """
    folders: dict[str, list[str]] = {}
    for address in named.addresses:
        folders.setdefault(prefix_of(address), []).append(address)
    manifests, unreadable = [], []
    for folder, each in folders.items():
        found = next(_fitting(each, candidates(each, named.manifests, images)), None)
        if found is None and is_remote(folder):
            raise ValueError(
                f"{shorten(folder)} is in a remote store and has no index that lists these shards; make it with "
                f"`silc shards index {folder if not folder.startswith('http') else 'SHARDS --out FOLDER'}`"
            )
        if found is None:
            found, bad = _cached(folder, each, images, jobs, progress, say)
            unreadable += bad
        manifests.append(found)
    return Opened(joined(manifests), unreadable)


def _fitting(addresses: Sequence[str], manifests: Iterable[Manifest]) -> Iterator[Manifest]:
    """The rows for these shards of each manifest that lists all of them as they are."""
    for manifest in manifests:
        rows = numbers_of(addresses, manifest)
        if (rows >= 0).all():
            chosen = manifest.select(rows)
            if is_remote(addresses[0]) or _as_they_are(chosen):
                yield chosen


def _as_they_are(manifest: Manifest) -> bool:
    """Whether the local shards and sidecars of a manifest are those that it was made for."""
    files = Stats(list(manifest.addresses))
    sidecars = Stats([manifest.sidecar(number) for number in range(len(manifest))])
    times = [str(time) for time in files.times.tolist()]
    out = np.array([manifest.left_out(number) for number in range(len(manifest))], bool)
    fits = (files.sizes == manifest.sizes) & (out | (sidecars.sizes == (manifest.samples + 1) * WORD.itemsize))
    return bool(fits.all()) and times == list(manifest.versions)


def _cached(
    folder: str,
    addresses: Sequence[str],
    images: Sequence[str],
    jobs: int | None,
    progress: Progress | None,
    say: Say,
) -> tuple[Manifest, list[tuple[str, str]]]:
    """The index where a run would keep it if it could not write beside the shards."""
    out = made(cache_of(folder, ""))
    kinds = sorted({*(image.lower() for image in images), *IMAGES})
    with only_one(Path(out) / LOCK, say):
        built = build(addresses, f"{out}/", images=kinds, jobs=jobs, skip_bad=True, keep=True, progress=progress)
    assert built.manifest is not None
    return built.manifest.select(numbers_of(_there(addresses, built.manifest), built.manifest)), built.bad


def _there(addresses: Sequence[str], manifest: Manifest) -> list[str]:
    known = set(manifest.addresses)
    return [address for address in addresses if address in known]


def draw(total: int, count: int, seed: int) -> np.ndarray:
    """`count` different numbers below `total`, each set as likely as any other, in a random order: int64 [count].

    A function of its arguments alone, whatever the versions of libraries. Takes time and memory for `count` numbers.
    """
    words = np.random.Philox(key=np.array([seed, 0x5E1EC7], dtype=np.uint64))
    if 4 * count >= total:
        return np.argsort(words.random_raw(total), kind="stable")[:count].astype(np.int64)
    found = np.empty(0, np.int64)
    while len(found) < count:
        # Numbers of 64 bits make the first of `total` a little likelier: by 1 in 10^9 for 10^10 samples.
        more = (words.random_raw(2 * count) % np.uint64(total)).astype(np.int64)
        both = np.concatenate([found, more])
        found = both[np.sort(np.unique(both, return_index=True)[1])]
    return found[:count]


def places(manifest: Manifest, numbers: np.ndarray) -> list[Place]:
    """(shard, sample) of the samples with these numbers, int64 [n], counted over all shards."""
    ends = np.cumsum(manifest.samples)
    shards = np.searchsorted(ends, numbers, side="right")
    samples = numbers - (ends - manifest.samples)[shards]
    return list(zip(shards.tolist(), samples.tolist(), strict=True))


def read(manifest: Manifest, wanted: Sequence[Place]) -> Iterator[tuple[str, Sample | Unusable]]:
    """(shard/key, sample) of each place, in order. Raises StoreFailed."""
    reader = SampleReader(manifest, lambda: open_store(patience=PATIENCE))
    try:
        for at in range(0, len(wanted), BATCH):
            some = wanted[at : at + BATCH]
            for (shard, number), sample in zip(some, reader.read(some), strict=True):
                yield f"{reader.name(shard)}/{sample.key or f'#{number}'}", sample
    finally:
        reader.close()
