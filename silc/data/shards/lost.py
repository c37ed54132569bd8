"""Whether shards can be used: samples lost by the way they were packed, damage, and what is not there at all."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from silc.data.shards.errors import SHOWN, few, shorten
from silc.text import plural

log = logging.getLogger(__name__)

TWICE = "key comes twice"
APART = "members not adjacent"
DOTTED = "dot in the name"
CROWDED = "too many members"

_WAY_OUT = {
    TWICE: "give each sample a key of its own, or pack the newest version of each alone",
    APART: "pack the members of a sample one behind the other, as tar --sort=name does",
    DOTTED: "pack names with exactly one dot: all that stands behind the first is read as the extension",
    CROWDED: "give each sample a name of its own before the first dot",
}


class Tally(NamedTuple):
    """How much of a shard can be used: its name, the samples that can, and those that cannot by reason."""

    name: str
    usable: int
    lost: Mapping[str, int]


def check_lost(tallies: Sequence[Tally], max_lost: float, what: str) -> None:
    """Log how many samples cannot be used: one line for all shards, nothing where all can.

    Args:
        tallies: of the shards.
        max_lost: largest share of the samples that may be lost, `data.max_skipped`.
        what: where the shards are named, for messages.

    Raises:
        ValueError: more than that, or all, are lost; it names the worst shard, the reasons and a way out.
    """
    reasons: Counter[str] = Counter()
    for tally in tallies:
        reasons.update(tally.lost)
    lost = reasons.total()
    if not lost:
        return
    samples = lost + sum(tally.usable for tally in tallies)
    worst = max(tallies, key=lambda tally: sum(tally.lost.values()))
    within = sum(worst.lost.values())
    found = (
        f"{what}: {lost:,} of {plural(samples, 'sample')} cannot be used ({_listed(reasons)}), "
        f"{'all' if within == lost else f'{within:,} of them'} in {shorten(worst.name)}"
    )
    main = max(worst.lost, key=lambda reason: worst.lost[reason])
    way_out = _WAY_OUT.get(main, "pack the shards anew")
    if lost == samples:
        raise ValueError(f"{found}: none is left; {way_out}")
    if lost > max_lost * samples:
        raise ValueError(f"{found}: more than data.max_skipped={max_lost} allows; {way_out}, or raise the limit")
    log.warning("%s; %s", found, way_out)


def check_contents(
    patterns: Sequence[str],
    what: str,
    shards: int,
    samples: int,
    lacking: Sequence[tuple[str, Sequence[str]]],
    extensions: Iterable[str],
) -> None:
    """Refuse shards without a sample, or without something that is needed.

    Args:
        patterns: that name them, for messages.
        what: where they are named, for messages.
        shards, samples: how many.
        lacking: columns that no sample has, with the extensions that may hold them.
        extensions: that were found.

    Raises ValueError.
    """
    named = f"[{few(patterns)}]"
    if not samples:
        raise ValueError(
            f"{what}: {named} contain no sample in {plural(shards, 'tar file')}: they are empty, or their members' "
            "names have no extension"
        )
    if lacking:
        column, wanted = lacking[0]
        raise ValueError(
            f"{what}: no sample in {named} has a {column} ({'/'.join(wanted)}); the extensions found are "
            f"{few(sorted(extensions))}"
        )


def note_lines(noted: Iterable[tuple[str, Sequence[str]]]) -> Iterator[str]:
    """Lines for the log: shards with what was noted of each, the first SHOWN of them, and how many more."""
    more = 0
    for shown, (shard, notes) in enumerate((shard, notes) for shard, notes in noted if notes):
        if shown < SHOWN:
            yield f"{shorten(shard)} {'; it '.join(shorten(str(note)) for note in notes[:SHOWN])}"
        else:
            more += 1
    if more:
        yield f"{plural(more, 'shard')} more like these"


def _listed(reasons: Counter[str]) -> str:
    return ", ".join(f"{reason}: {count:,}" for reason, count in reasons.most_common())
