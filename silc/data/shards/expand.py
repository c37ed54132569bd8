"""Patterns -> addresses of shards."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence

from webdataset.shardlists import expand_urls


def expand_shards(patterns: Sequence[str], what: str = "data.shards") -> list[str]:
    """Paths of the shards that brace patterns, wildcards, folders (all their *.tar) and plain paths name, in order.

    what: where they are named, for messages.

    Raises:
        ValueError: a pattern that matches nothing, a shard that is missing or named twice, or an address that is not a
            local path.
    """
    if not patterns:
        raise ValueError("no shards given: set data.shards to tar files, brace patterns or folders")
    paths = [path for pattern in patterns for path in _expand(str(pattern), what)]
    seen = set()
    for path in paths:
        if (place := os.path.abspath(path)) in seen:
            raise ValueError(f"shards {list(patterns)}: {path} is named twice")
        seen.add(place)
    return paths


def _expand(pattern: str, what: str) -> list[str]:
    if re.match(r"^(pipe:|[a-z0-9]+://)", pattern):
        raise ValueError(f"{what}: {pattern!r} is not on a local disk; copy or mount it and give the local path")
    paths = []
    for name in expand_urls(os.path.expanduser(pattern)):
        if os.path.isdir(name):
            found = sorted(glob.glob(os.path.join(glob.escape(name), "*.tar")))
            if not found:
                raise ValueError(f"{what}: folder {name!r} holds no .tar; pack the files as docs/data.md shows")
        elif glob.has_magic(name) and not os.path.exists(name):
            found = sorted(glob.glob(name))
        else:
            found = [name]
        if not found:
            raise ValueError(f"{what}: no tar file matches {name!r}")
        for path in found:
            if not os.path.isfile(path):
                raise ValueError(f"{what}: no such file or folder {path!r}")
        paths += found
    return paths
