"""What a run trains on: one source of shards, or several with weights."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from silc.config import Config, DataConfig
from silc.data.captions import CaptionReader
from silc.data.peek import check_captions, local_samples
from silc.data.shards.manifest import Manifest, joined
from silc.data.shards.prepare import open_prepared, prepare
from silc.storage import is_remote
from silc.text import plural


@dataclass(frozen=True)
class Source:
    """A source of a mixture.

    Attributes:
        name: the key of the configuration that names its shards.
        shards: how many; they follow those of the source before.
        samples: in all of them.
        weight: relative to the other sources.
        identity: of its shards, see :meth:`Manifest.identity`.
    """

    name: str
    shards: int
    samples: int
    weight: float
    identity: str


@dataclass(frozen=True)
class TrainingSet:
    """Opened shards.

    Attributes:
        manifest: the shards of all sources, in order.
        sources: in the order of their shards.
    """

    manifest: Manifest
    sources: list[Source]

    def counts(self) -> list[np.ndarray]:
        """Samples in each shard of each source: int64 [shards] for every source."""
        ends = np.cumsum([source.shards for source in self.sources])
        return np.split(self.manifest.samples, ends[:-1])

    @property
    def remote(self) -> bool:
        """Whether any shard is in a remote store."""
        return any(is_remote(part.base) for part in self.manifest.parts)

    def versions(self) -> Mapping[str, str]:
        """Version of each shard by its address, see :class:`Manifest`."""
        return dict(zip(self.manifest.addresses, self.manifest.versions, strict=True))

    def describe(self) -> dict[str, Any]:
        """Plain values that say which samples these are and how they are mixed: the same after a move of the shards."""
        total = sum(source.weight for source in self.sources)
        return {
            "sources": [
                {"shards": s.shards, "samples": s.samples, "share": s.weight / total, "identity": s.identity}
                for s in self.sources
            ]
        }


def open_training_set(config: Config, shards: Sequence[str] | None = None, *, prepared: bool = False) -> TrainingSet:
    """Open the shards that a run trains on; where they are few and local, an index is made first.

    Args:
        config: of the run.
        shards: in place of `data.shards` and `data.sources`.
        prepared: another process of this machine has done so with the same arguments: open what it left.

    Raises:
        ValueError: shards that are missing, have no index, are no tar files, or lack images or captions; captions
            that are JSON, of which no field is named.
        RunStopped: the index cannot be read or written.
    """
    named = [("data.shards", list(config.data.shards if shards is None else shards), 1.0)]
    if shards is None and config.data.sources:
        named = _sources(config.data)
    opened = [(name, _open(config.data, name, patterns, prepared), weight) for name, patterns, weight in named]
    sources = [Source(name, len(one), int(one.samples.sum()), weight, one.identity()) for name, one, weight in opened]
    manifest = joined([one for _, one, _ in opened])
    _refuse_twice(manifest, sources)
    if not prepared:
        _look_at_captions(config.data, manifest)
    return TrainingSet(manifest, sources)


def _look_at_captions(data: DataConfig, manifest: Manifest) -> None:
    """Refuse captions that are none, and say how several of one image are used. Remote ones are looked at by whoever
    reads the first batch: see :mod:`silc.data.workers` for why this process does not read them.
    """
    reader = CaptionReader(data.caption_key, lines=data.caption_lines)
    if check_captions(local_samples(manifest), reader):
        lines = "" if reader.key.field else "; data.caption_lines=false takes their lines as one caption"
        print(f"note: there are samples with several captions: one is drawn each time{lines}")


def _sources(data: DataConfig) -> list[tuple[str, list[str], float]]:
    return [
        (f"data.sources.{number}.shards", list(source.shards), source.weight)
        for number, source in enumerate(data.sources)
    ]


def _open(data: DataConfig, name: str, patterns: Sequence[str], prepared: bool) -> Manifest:
    caption, images, hashes = data.caption_key, data.image_keys, data.unique_captions
    if prepared:
        return open_prepared(patterns, caption=caption, images=images, hashes=hashes, what=name)
    return prepare(
        patterns,
        caption=caption,
        images=images,
        hashes=hashes,
        max_lost=data.max_skipped,
        what=name,
        patience=data.store_minutes * 60,
    )


def _refuse_twice(manifest: Manifest, sources: Sequence[Source]) -> None:
    """Raises ValueError for a shard that two sources name: it would have two weights."""
    if len(sources) == 1:
        return
    owner: dict[str, str] = {}
    addresses = iter(manifest.addresses)
    for source in sources:
        mine = list(itertools.islice(addresses, source.shards))
        both = [address for address in mine if address in owner]
        if both:
            raise ValueError(
                f"{plural(len(both), 'shard')} of {source.name}, {both[0]} for one, are in {owner[both[0]]} too; name "
                "each shard in one source, and weigh that source"
            )
        owner |= dict.fromkeys(mine, source.name)
