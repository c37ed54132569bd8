"""The keys of samples that cannot be used because of how a shard was packed: a scan only counts them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from silc.data.shards.errors import CutShort
from silc.data.shards.lost import APART, CROWDED, DOTTED, TWICE
from silc.data.shards.runs import MAX_MEMBERS, dotted
from silc.data.shards.samples import AHEAD, split_name
from silc.data.shards.tar import Members, NotTar, Source, windowed

MOST_RUNS = 1_000_000  # of members with one key, in a shard, that are remembered


class _Run(NamedTuple):
    """Members that follow one another under one key: their extensions, of which one may come `twice`; the last member
    may be `cut` by the end of a damaged shard."""

    key: bytes
    extensions: set[bytes]
    twice: bool
    cut: bool = False


def lost_keys(source: Source, size: int, images: Sequence[str]) -> list[tuple[str, str]]:
    """(key, reason) of the samples that :func:`silc.data.shards.scan` counts as lost, in the order of the shard.

    A key that is lost several times for one reason comes once. Only the first MOST_RUNS runs are looked at.

    Args:
        source: of the shard's bytes.
        size: of the shard.
        images: extensions of images.
    """
    kinds = frozenset(image.lower().encode() for image in images)
    found: dict[tuple[bytes, str], None] = {}
    versions: dict[bytes, list[set[bytes]]] = {}
    unfinished: bytes | None = None
    for key, extensions, twice, cut in itertools.islice(_runs(windowed(source, size, AHEAD), size), MOST_RUNS):
        merged, plain = dotted(list(extensions), kinds)
        if len(extensions) > MAX_MEMBERS:
            found[key, DOTTED if merged else CROWDED] = None
            continue
        if merged:
            found[key, DOTTED] = None
        if twice:
            found[key, TWICE] = None
        if plain or not merged:
            versions.setdefault(key, []).append(extensions)
            unfinished = key if cut else None
    for key, sets in versions.items():
        if len(sets) > 1:
            everything = set().union(*sets)
            if any(sum(extension in one for one in sets) > 1 for extension in everything):
                found[key, TWICE] = None
            finished = sets[:-1] if key == unfinished else sets  # what is cut replaces no other
            if finished[-1] != set().union(*finished):
                found[key, APART] = None
    return [(key.decode("utf-8", "surrogateescape"), reason) for key, reason in found]


def _runs(source: Source, size: int) -> Iterator[_Run]:
    """The runs of a shard; of a damaged one those before the damage."""
    run: _Run | None = None
    try:
        for _, regular, name, offset, length in Members(source, size):
            if not regular or (parts := split_name(name)) is None:
                continue
            key, extension = parts
            if run is None or run.key != key:
                if run is not None:
                    yield run
                run = _Run(key, {extension}, False)
            elif extension in run.extensions:
                run = run._replace(twice=True)
            elif len(run.extensions) <= MAX_MEMBERS:
                run.extensions.add(extension)
            if offset + length > size:
                run = run._replace(cut=True)
    except (CutShort, NotTar):
        pass
    if run is not None:
        yield run
