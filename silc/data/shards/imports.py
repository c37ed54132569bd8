"""What other programs have written down about shards: how many samples they hold, and where these begin.

=====================  =================================  ==========================================================
img2dataset            ``00000_stats.json`` per shard     ``{"successes": 9876, ...}``: samples written
open_clip              ``sizes.json`` per folder          ``{"00000.tar": 9876, ...}``
megatron-energon       ``.nv-meta/.info.json``            ``{"shard_counts": {"00000.tar": 9876, ...}}``
megatron-energon       ``00000.tar.idx`` per shard        the sidecar itself, see :mod:`silc.data.shards.sidecar`
=====================  =================================  ==========================================================

Counts alone do not tell where a sample begins, so they cannot replace reading a tar's headers; they are compared with
what was found there. The offsets of megatron-energon can.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

LIMIT = 64 << 20  # bytes of a list of counts
STATS_LIMIT = 16 << 20  # bytes of the statistics of one shard
ENERGON, OPEN_CLIP, IMG2DATASET = ".nv-meta/.info.json", "sizes.json", "_stats.json"

Read = Callable[[str, int], bytes]
"""(address, limit) -> all bytes; ValueError where there is nothing, or more than that."""


class Counts(NamedTuple):
    """Samples of the shards of a folder.

    Attributes:
        origin: the file they are from, for messages.
        by_name: name of a shard relative to the folder -> samples.
    """

    origin: str
    by_name: Mapping[str, int]


def counts_in(folder: str, read: Read) -> Counts | None:
    """The counts that megatron-energon or open_clip left in a folder.

    folder: its address, with the last slash.

    Returns None where there are none that can be understood.
    """
    for name in (ENERGON, OPEN_CLIP):
        found = _json(folder + name, LIMIT, read)
        if isinstance(found, dict):
            counts = found.get("shard_counts") if name == ENERGON else found
            if isinstance(counts, dict):
                numbers = {str(shard): _count(value) for shard, value in counts.items()}
                return Counts(name, {shard: count for shard, count in numbers.items() if count is not None})
    return None


def stats_of(shard: str, read: Read) -> int | None:
    """Samples that img2dataset says it wrote to a shard (its address); None where it left no statistics."""
    found = _json(shard.removesuffix(".tar") + IMG2DATASET, STATS_LIMIT, read)
    return _count(found.get("successes")) if isinstance(found, dict) else None


def _json(address: str, limit: int, read: Read) -> Any:
    try:
        return json.loads(read(address, limit))
    except (ValueError, RecursionError):  # absent, too large, or not JSON
        return None


def _count(value: object) -> int | None:
    """A number of samples; open_clip takes texts as well."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16:
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None
