"""Whether the shards of an index can be trained on: what is missing, and what is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from silc.data.shards.errors import few
from silc.data.shards.lost import Tally, check_contents, check_lost, note_lines
from silc.data.shards.manifest import Manifest
from silc.data.shards.places import Say
from silc.text import plural


def check(
    manifest: Manifest,
    patterns: Sequence[str],
    required: Mapping[str, Sequence[str]],
    *,
    max_lost: float,
    what: str,
    say: Say,
) -> None:
    """Refuse shards without usable samples; say which are damaged or empty. What is lost is logged.

    Args:
        manifest: of the shards.
        patterns: that name them, for messages.
        required: column -> extensions of which at least one must be there.
        max_lost: share of the samples that may be unusable.
        what: where the shards are named, for messages.
        say: told of shards that are damaged or have no samples.

    Raises ValueError.
    """
    check_lost(list(_tallies(manifest)), max_lost, what)
    lacking = [
        (column, extensions)
        for column, extensions in required.items()
        if not any(extension.lower() in manifest.extensions for extension in extensions)
    ]
    check_contents(patterns, what, len(manifest), int(manifest.samples.sum()), lacking, manifest.extensions)
    for line in note_lines(_notes(manifest)):
        say(f"warning: {line}")
    _say_empty(manifest, say)


def _tallies(manifest: Manifest) -> Iterator[Tally]:
    """Of each shard that has lost samples, and one of all others."""
    rest = int(manifest.samples.sum())
    for shard, details in enumerate(manifest.details):
        if '"lost"' in details and (lost := json.loads(details).get("lost")):
            usable = int(manifest.samples[shard])
            rest -= usable
            yield Tally(manifest.addresses[shard], usable, lost)
    yield Tally("", rest, {})


def _notes(manifest: Manifest) -> Iterator[tuple[str, list[str]]]:
    """What was found when the index was made, for every start: the damage is still there."""
    for shard, details in enumerate(manifest.details):
        if '"notes"' in details and isinstance(notes := json.loads(details).get("notes"), list):
            yield manifest.addresses[shard], notes


def _say_empty(manifest: Manifest, say: Say) -> None:
    bare, bad = [], []
    for shard in np.flatnonzero(manifest.samples == 0).tolist():
        address, why = manifest.addresses[shard], json.loads(manifest.details[shard]).get("left_out")
        if why is None:
            bare.append(address)
        else:
            bad.append(f"{address} ({why})")
    if bare:
        say(f"warning: no sample in {plural(len(bare), 'shard')}: {few(bare)}")
    if bad:
        say(f"warning: {plural(len(bad), 'shard')} left out when the index was made: {few(bad)}")
