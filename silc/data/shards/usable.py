"""Whether the shards of an index can be trained on: what is missing, and what is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from silc.data.shards.errors import SHOWN, few, shorten
from silc.data.shards.lost import Tally, check_lost
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
    named = f"[{few(patterns)}]"
    check_lost(list(_tallies(manifest)), max_lost, what)
    if not manifest.samples.any():
        raise ValueError(
            f"{what}: {named} contain no sample in {plural(len(manifest), 'tar file')}: they are empty, or their "
            "members' names have no extension"
        )
    for column, extensions in required.items():
        if not any(extension.lower() in manifest.extensions for extension in extensions):
            raise ValueError(
                f"{what}: no sample in {named} has a {column} ({'/'.join(extensions)}); the extensions found are "
                f"{few(sorted(manifest.extensions))}"
            )
    _say_notes(manifest, say)
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


def _say_notes(manifest: Manifest, say: Say) -> None:
    """What was found when the index was made, at every start: the damage is still there."""
    noted = [shard for shard, details in enumerate(manifest.details) if '"notes"' in details]
    for shard in noted[:SHOWN]:
        notes = json.loads(manifest.details[shard]).get("notes", [])
        if isinstance(notes, list) and notes:
            said = "; it ".join(shorten(str(note)) for note in notes[:SHOWN])
            say(f"warning: {shorten(manifest.addresses[shard])} {said}")
    if len(noted) > SHOWN:
        say(f"warning: and {len(noted) - SHOWN:,} more shards with such notes")


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
