"""Whether an index is whole and fits its shards: `silc shards index --check`. Nothing is written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from silc.data.shards import pool, sidecar
from silc.data.shards.build import Progress, processes, read_manifest
from silc.data.shards.indexing import compare, opened
from silc.data.shards.manifest import HASHES, NAME, OFFSETS, Row
from silc.errors import StoreFailed
from silc.storage import Store, is_remote, read_whole, stat


class Look(NamedTuple):
    """A shard to compare with its row and sidecars; `stem`: address of these without their suffixes."""

    address: str
    stem: str
    row: Row
    caption: str | None


class Seen(NamedTuple):
    """What is wrong with a shard's index: `stale` or `damaged` says it; both are empty where nothing is."""

    name: str
    stale: str = ""
    damaged: str = ""


@dataclass
class Inspection:
    """What is wrong with an index.

    Attributes:
        manifest: its address.
        problem: why it cannot be used at all; empty where it can.
        missing: shards that it does not list.
        gone: shards that it lists, and that are not there or not named.
        stale, damaged: shards with what is wrong.
        left_out: shards that could not be indexed when it was made, and why.
        shards, samples: that it lists.
    """

    manifest: str
    problem: str = ""
    missing: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    shards: int = 0
    samples: int = 0

    @property
    def whole(self) -> bool:
        """Whether training can use it as it is."""
        return not (self.problem or self.missing or self.gone or self.stale or self.damaged)


def inspect(
    addresses: Sequence[str],
    out: str,
    *,
    caption: str | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Inspection:
    """Compare the index in a folder with shards.

    Args:
        addresses: of the shards.
        out: folder of the manifest and the sidecars, with its last slash.
        caption: where the captions are whose hashes must be there, see :class:`CaptionKey`; None: any, or none.
        jobs: processes; None: one a processor.
        progress: told after each few shards.
    """
    result = Inspection(out + NAME)
    try:
        manifest = read_manifest(out)
    except ValueError as error:
        return Inspection(out + NAME, str(error), missing=list(addresses))
    if manifest is None:
        return Inspection(out + NAME, "there is none", missing=list(addresses))
    if caption is not None and manifest.caption != caption:
        result.problem = f"it holds no hashes of the {caption} captions"
    listed, named = set(manifest.addresses), set(addresses)
    result.missing = [address for address in addresses if address not in listed]
    result.gone = [address for address in manifest.addresses if address not in named]
    result.shards, result.samples = len(manifest), int(manifest.samples.sum())
    work = []
    for number, row in enumerate(manifest.rows()):
        if why := json.loads(row.details or "{}").get("left_out"):
            result.left_out.append(f"{row.name} ({why})")
        elif row.name in named:
            work.append(Look(row.name, manifest.stem(number), row, manifest.caption))
    number = processes(len(work), jobs, remote=any(map(is_remote, (out, *addresses[:1]))))
    samples = size = 0
    sizes = {look.address: (look.row.samples, look.row.size) for look in work}
    for done, seen in enumerate(pool.done(look_at, work, number), 1):
        if seen.stale:
            result.stale.append(f"{seen.name} ({seen.stale})")
        if seen.damaged:
            result.damaged.append(f"{seen.name} ({seen.damaged})")
        samples, size = samples + sizes[seen.name][0], size + sizes[seen.name][1]
        if progress is not None:
            progress(done, len(work), samples, size)
    result.stale.sort()
    result.damaged.sort()
    return result


def look_at(looks: Sequence[Look], store: Store) -> list[Seen]:
    """What is wrong with the index of each shard."""
    return [_look_at(look, store) for look in looks]


def _look_at(look: Look, store: Store) -> Seen:
    row = look.row
    try:
        found = stat(look.address)
        if found is None:
            return Seen(look.address, stale="it is not there any more")
        if found.size != row.size:
            return Seen(look.address, stale=f"it has {found.size:,} bytes, not {row.size:,}")
        offsets = sidecar.offsets_of(read_whole(look.stem + OFFSETS, sidecar.LIMIT), row.size, look.address)
        hashes = None
        if look.caption is not None:
            data = read_whole(look.stem + HASHES, sidecar.LIMIT)
            hashes = sidecar.hashes_of(data, row.samples, look.address)
        if len(offsets) != row.samples + 1:
            return Seen(look.address, damaged=f"{len(offsets) - 1:,} offsets for {row.samples:,} samples")
        with opened(look.address, found.size, store) as source:
            fits = compare(source, offsets, hashes, look.caption) is not None
        if found.version != row.version:
            return Seen(look.address, stale="it was changed" + ("" if fits else ", and the index does not fit it"))
        return Seen(look.address, damaged="" if fits else "a sample is not where the index says")
    except (ValueError, OSError, StoreFailed) as error:
        return Seen(look.address, damaged=str(error))
