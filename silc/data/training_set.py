"""What a run trains on: one source of shards, or several with weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from silc.config import Config, DataConfig
from silc.data.shards.manifest import Manifest
from silc.data.shards.prepare import prepare
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


def open_training_set(config: Config, shards: Sequence[str] | None = None) -> TrainingSet:
    """Open the shards that a run trains on, indexed first where they are few and local.

    Several processes may call it at once; one of them indexes, the others wait.

    Args:
        config: of the run.
        shards: in place of `data.shards` and `data.sources`.

    Raises:
        ValueError: shards that are missing, have no index, are no tar files, or lack images or captions.
    """
    named = [("data.shards", list(config.data.shards if shards is None else shards), 1.0)]
    if shards is None and config.data.sources:
        named = _sources(config.data)
    opened = [(name, _open(config.data, name, patterns), weight) for name, patterns, weight in named]
    sources = [
        Source(name, len(one.addresses), int(one.samples.sum()), weight, one.identity()) for name, one, weight in opened
    ]
    manifest = Manifest.concatenate([one for _, one, _ in opened])
    _refuse_twice(manifest, sources)
    return TrainingSet(manifest, sources)


def _sources(data: DataConfig) -> list[tuple[str, list[str], float]]:
    return [
        (f"data.sources.{number}.shards", list(source.shards), source.weight)
        for number, source in enumerate(data.sources)
    ]


def _open(data: DataConfig, name: str, patterns: Sequence[str]) -> Manifest:
    return prepare(
        patterns,
        images=data.image_keys,
        caption=data.caption_key,
        hashes=data.unique_captions,
        max_lost=data.max_skipped,
        what=name,
    )


def _refuse_twice(manifest: Manifest, sources: Sequence[Source]) -> None:
    """Raises ValueError for a shard that two sources name: it would have two weights."""
    seen: dict[str, str] = {}
    at = 0
    for source in sources:
        both = [address for address in manifest.addresses[at : at + source.shards] if address in seen]
        if both:
            raise ValueError(
                f"{plural(len(both), 'shard')} of {source.name}, {both[0]} for one, are in {seen[both[0]]} too; name "
                "each shard in one source, and weigh that source"
            )
        seen |= dict.fromkeys(manifest.addresses[at : at + source.shards], source.name)
        at += source.shards
