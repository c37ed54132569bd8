"""A check in words and in JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from silc.data.shards.errors import SHOWN, few, shorten
from silc.data.survey.checking import Findings
from silc.data.survey.profiles import is_srgb
from silc.data.survey.tally import ranked
from silc.text import plural

REPEATS = 3  # of a kind that are named
_KINDS = {"images": "image", "pairs": "pair", "texts": "caption"}


def sentences(found: Findings) -> Iterator[str]:
    """What was found, in lines of bounded number and length."""
    yield (
        f"{found.whole:,} of {plural(found.samples, 'sample')} in {plural(found.shards, 'shard')} "
        f"({found.size / 1e9:.1f} GB) can be trained on, with {plural(found.captions, 'caption')}"
    )
    if found.refused:
        yield (
            "but training refuses them: most captions are JSON; name the field that holds the caption by "
            "data.caption_key=EXTENSION:FIELD (`silc shards show` lists the fields of members .json)"
        )
    elif found.json:
        yield f"{plural(found.json, 'sample')} whose caption is JSON"
    yield from _damage(found)
    yield from _repeats(found)
    yield from _images(found)


def _damage(found: Findings) -> Iterator[str]:
    if found.unreadable:
        shown = few([f"{address}: {why}" for address, why in found.unreadable])
        yield f"{plural(len(found.unreadable), 'shard')} cannot be read: {shown}"
    for address, words in found.notes[:SHOWN]:
        yield f"{shorten(address)} {words}"
    if len(found.notes) > SHOWN:
        yield f"and {len(found.notes) - SHOWN:,} more such notes on shards"
    for reason, count in ranked(found.faults).items():
        named = found.examples.get(reason, [])
        yield (
            f"{count:,} x {shorten(reason)}"
            + (f": {', '.join(named)}" if named else "")
            + (", ..." if 0 < len(named) < count else "")
        )


def _repeats(found: Findings) -> Iterator[str]:
    for name, kind in _KINDS.items():
        repeats = found.repeats.get(name)
        if repeats is None:
            continue
        alike = "but for case and white space" if name == "texts" else "byte for byte"
        if not repeats.more:
            yield f"no {kind} comes twice ({alike})"
            continue
        groups = [f"{times:,} times, {first} to {last}" for times, first, last in found.repeated[name][:REPEATS]]
        yield (
            f"{repeats.more:,} of {plural(repeats.records, kind)} repeat an earlier one ({alike}); "
            f"{repeats.repeated:,} different, the most frequent {'; '.join(groups)}"
        )


def _images(found: Findings) -> Iterator[str]:
    tally = found.tally
    if not tally.images:
        return
    yield f"images: {listed(tally.formats)}; {listed(tally.colors)}"
    for count, words in (
        (tally.animated, "animated or of several pages: the first frame is used"),
        (tally.oriented, f"turned by EXIF ({listed(tally.orientations)}): as data.upright says"),
        (tally.alpha, "transparent: they are shown on white"),
        (tally.deep, "of more than 8 bits a channel: they become 8"),
    ):
        if count:
            yield f"{plural(count, 'image')} {words}"
    if tally.not_srgb:
        other = {name: count for name, count in tally.profiles.items() if not is_srgb(name)}
        yield (
            f"{plural(tally.not_srgb, 'image')} with a color profile that is not sRGB by its name ({listed(other)}): "
            "training ignores profiles and takes the values as sRGB"
        )


def listed(counts: dict[str, int]) -> str:
    """Names with their numbers, the most frequent first."""
    return few([f"{name} {count:,}" for name, count in ranked(counts).items()])


def to_dict(found: Findings) -> dict[str, Any]:
    """Plain values for a file of JSON."""
    return {
        "sound": found.sound,
        "shards": found.shards,
        "bytes": found.size,
        "samples": found.samples,
        "whole": found.whole,
        "damaged": found.damaged,
        "lost": found.lost,
        "faults": {
            reason: {"samples": count, "examples": found.examples.get(reason, [])}
            for reason, count in ranked(found.faults).items()
        },
        "unreadable_shards": [{"shard": address, "why": why} for address, why in found.unreadable],
        "cut_shards": found.cut,
        "notes": [{"shard": address, "note": words} for address, words in found.notes],
        "captions": found.captions,
        "json_captions": found.json,
        "images": found.tally.to_dict() | {"not_srgb_by_name": found.tally.not_srgb},
        "repeats": {
            name: {
                "records": repeats.records,
                "distinct": repeats.distinct,
                "repeated": repeats.repeated,
                "most": [{"times": times, "first": first, "last": last} for times, first, last in found.repeated[name]],
            }
            for name, repeats in found.repeats.items()
        },
    }
