"""Whether the shards of an index can be trained on: what is missing, and what is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from silc.data.shards.errors import few
from silc.data.shards.manifest import Manifest
from silc.data.shards.manifest_file import shown_lost
from silc.data.shards.places import Say
from silc.storage import name_of
from silc.text import plural

WAYS = {
    "key comes twice": "give each sample a key of its own",
    "members not adjacent": "pack the members of a sample one after the other, as `tar --sort=name` does",
    "dot in the name": "use exactly one dot in a name",
}


def check(
    manifest: Manifest,
    patterns: Sequence[str],
    required: Mapping[str, Sequence[str]],
    *,
    max_lost: float,
    what: str,
    say: Say,
) -> None:
    """Refuse shards without usable samples; say what is lost or empty.

    Args:
        manifest: of the shards.
        patterns: that name them, for messages.
        required: column -> extensions of which at least one must be there.
        max_lost: share of the samples that may be unusable.
        what: where the shards are named, for messages.
        say: told what is lost.

    Raises ValueError.
    """
    samples, lost = int(manifest.samples.sum()), sum(manifest.lost.values())
    if lost > max_lost * (samples + lost) or (lost and not samples):
        raise ValueError(
            f"{what}: {lost:,} of {plural(samples + lost, 'sample')} in {few(patterns)} cannot be used, more than "
            f"data.max_skipped={max_lost:g} of them: {shown_lost(manifest.lost)}. {_worst(manifest)}. {_way(manifest)}"
        )
    if not samples:
        raise ValueError(
            f"shards {few(patterns)} contain no sample in {plural(len(manifest), 'tar file')}: they are empty, or "
            "their members' names have no extension"
        )
    for column, extensions in required.items():
        if not any(extension.lower() in manifest.extensions for extension in extensions):
            raise ValueError(
                f"no sample in {few(patterns)} has a {column} ({'/'.join(extensions)}); the extensions found are "
                f"{few(sorted(manifest.extensions))}"
            )
    if lost:
        say(
            f"warning: {lost:,} of {plural(samples + lost, 'sample')} cannot be used: {shown_lost(manifest.lost)}. "
            f"{_worst(manifest)}. {_way(manifest)}"
        )
    _say_empty(manifest, say)


def _say_empty(manifest: Manifest, say: Say) -> None:
    empty = np.flatnonzero(manifest.samples == 0).tolist()
    if not empty:
        return
    left_out = {i: json.loads(manifest.details[i]).get("left_out") for i in empty}
    bare = [manifest.addresses[i] for i, why in left_out.items() if why is None]
    bad = [f"{manifest.addresses[i]} ({why})" for i, why in left_out.items() if why is not None]
    if bare:
        say(f"warning: {plural(len(bare), 'shard')} without samples: {few(bare)}")
    if bad:
        say(f"warning: {plural(len(bad), 'shard')} left out when the index was made: {few(bad)}")


def _worst(manifest: Manifest) -> str:
    """The shard that lost most, and what."""
    losers = ((sum(lost.values()), shard, lost) for shard, lost in _losers(manifest))
    count, shard, lost = max(losers, key=lambda loser: loser[0], default=(0, 0, {}))
    total = int(manifest.samples[shard]) + count
    return f"Most are in {name_of(manifest.addresses[shard])}: {count:,} of {total:,} ({shown_lost(lost)})"


def _losers(manifest: Manifest) -> Iterator[tuple[int, Mapping[str, int]]]:
    for shard, details in enumerate(manifest.details):
        if '"lost"' in details:
            yield shard, json.loads(details).get("lost", {})


def _way(manifest: Manifest) -> str:
    reasons = sorted(manifest.lost, key=lambda reason: -manifest.lost[reason])
    return "; ".join(WAYS[reason] for reason in reasons if reason in WAYS) or "pack the shards again"
