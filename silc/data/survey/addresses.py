"""The shards that patterns name, one by one, and what an index beside them says."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from silc.data.shards.build import read_manifest
from silc.data.shards.errors import few
from silc.data.shards.expand import MANIFEST, expand_shards
from silc.data.shards.manifest import Manifest
from silc.data.shards.manifest_file import LIMIT, parsed, prefix_of
from silc.data.shards.places import absolute
from silc.errors import StoreFailed
from silc.storage import check_address, is_remote, list_tars, read_whole


@dataclass(frozen=True)
class Indexed:
    """What an index says of a shard: address of its offsets, samples in it, and those that are lost by reason."""

    sidecar: str
    samples: int
    lost: Mapping[str, int] = field(default_factory=dict)


def addresses_of(patterns: Sequence[str], what: str = "SHARDS") -> list[str]:
    """Addresses of the shards that patterns name, absolute and in order: folders and manifests are opened.

    Raises:
        ValueError: as :func:`silc.data.shards.expand_shards`; a shard that is named twice, a folder on a web server
            without an index, or none at all.
        StoreFailed: a store cannot be listed.
    """
    found: list[str] = []
    for name in expand_shards(patterns, what):
        found += _opened(name, what)
    if not found:
        raise ValueError(f"{what}: no tar file in {few(patterns)}")
    if len(set(found)) < len(found):
        twice = next(address for address, count in Counter(found).items() if count > 1)
        raise ValueError(f"{what}: {few([twice])} is named twice")
    return found


def _opened(name: str, what: str) -> list[str]:
    if is_remote(name):
        check_address(name, what)
    if name.endswith(MANIFEST):
        return list(parsed(read_whole(absolute(name), LIMIT), absolute(name)).addresses)
    if not is_remote(name) or name.endswith(".tar"):
        return [absolute(name)]
    manifest = read_manifest(name.rstrip("/") + "/")
    return list_tars(name) if manifest is None else list(manifest.addresses)


def indexed(addresses: Sequence[str], images: Sequence[str]) -> dict[str, Indexed]:
    """What the indices beside shards say of them, by address; nothing of shards without one.

    Args:
        addresses: of the shards.
        images: extensions; an index that was made for others tells other samples apart.
    """
    found: dict[str, Indexed] = {}
    wanted = set(addresses)
    for folder in dict.fromkeys(map(prefix_of, addresses)):
        try:
            manifest = read_manifest(folder)
        except (ValueError, StoreFailed):  # damaged, or not to be read: the shards are asked themselves
            continue
        if manifest is not None and {image.lower() for image in images} <= set(manifest.images):
            found |= {address: row for address, row in _rows(manifest).items() if address in wanted}
    return found


def _rows(manifest: Manifest) -> dict[str, Indexed]:
    rows = {}
    for number, row in enumerate(manifest.rows()):
        details = json.loads(row.details or "{}")
        if "left_out" not in details:
            rows[row.name] = Indexed(manifest.sidecar(number), row.samples, details.get("lost", {}))
    return rows
