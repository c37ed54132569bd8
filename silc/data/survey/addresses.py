"""The shards that patterns name, one by one, and what an index beside them says."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from silc.data.shards.build import read_manifest
from silc.data.shards.errors import few
from silc.data.shards.expand import MANIFEST, expand_shards
from silc.data.shards.manifest import Manifest
from silc.data.shards.manifest_file import LIMIT, parsed, prefix_of
from silc.data.shards.places import absolute
from silc.data.shards.prepare import same_images
from silc.errors import StoreFailed
from silc.storage import check_address, is_remote, list_tars, read_whole


@dataclass(frozen=True)
class Indexed:
    """What an index says of a shard: address of its offsets, samples in it, and those that are lost by reason."""

    sidecar: str
    samples: int
    lost: Mapping[str, int] = field(default_factory=dict)


class Named(NamedTuple):
    """What patterns name: addresses of shards, absolute and in order, and manifests that list some of them."""

    addresses: list[str]
    manifests: list[Manifest]


def find(patterns: Sequence[str], what: str = "SHARDS") -> Named:
    """The shards that patterns name: folders and manifests are opened.

    Raises:
        ValueError: as :func:`silc.data.shards.expand_shards`; a shard that is named twice, a folder on a web server
            without an index, or none at all.
        StoreFailed: a store cannot be listed.
    """
    found = Named([], [])
    for pattern in map(str, patterns):
        for name in expand_shards([pattern], what, manifests=True):
            addresses, manifest = _opened(name, pattern.endswith(MANIFEST), what)
            found.addresses.extend(addresses)
            found.manifests.extend([] if manifest is None else [manifest])
    if not found.addresses:
        raise ValueError(f"{what}: no tar file in {few(patterns)}")
    if len(set(found.addresses)) < len(found.addresses):
        twice = next(address for address, count in Counter(found.addresses).items() if count > 1)
        raise ValueError(f"{what}: {few([twice])} is named twice")
    return found


def _opened(name: str, asked: bool, what: str) -> tuple[list[str], Manifest | None]:
    """The shards of a name, and the manifest that lists them, if there is one.

    asked: whether the user named a manifest; a folder's own may be older than what lies in the folder.
    """
    if is_remote(name):
        check_address(name, what)
    if name.endswith(MANIFEST):
        path = absolute(name)
        beside = [] if asked else list_tars(prefix_of(path))
        try:
            manifest = parsed(read_whole(path, LIMIT), path)
        except ValueError:
            if not beside:
                raise
            return beside, None  # damaged: the shards are asked themselves
        return beside or list(manifest.addresses), manifest
    if not is_remote(name) or name.endswith(".tar"):
        return [absolute(name)], None
    own = read_manifest(name.rstrip("/") + "/")
    return (list_tars(name), None) if own is None else (list(own.addresses), own)


def indexed(named: Named, images: Sequence[str]) -> dict[str, Indexed]:
    """What indices say of shards, by address; nothing of shards without one.

    Args:
        named: the shards.
        images: extensions; an index that was made without one that is in the shards tells other samples apart.
    """
    found: dict[str, Indexed] = {}
    wanted = set(named.addresses)
    for manifest in candidates(named.addresses, named.manifests, images):
        found |= {
            address: row for address, row in _rows(manifest).items() if address in wanted and address not in found
        }
    return found


def candidates(addresses: Sequence[str], manifests: Sequence[Manifest], images: Sequence[str]) -> Iterator[Manifest]:
    """Manifests that may list shards and tell the same samples apart: those given, and those beside the shards."""
    kinds = sorted({image.lower() for image in images})
    yield from (manifest for manifest in manifests if same_images(manifest, kinds))
    for folder in dict.fromkeys(map(prefix_of, addresses)):
        try:
            manifest = read_manifest(folder)
        except (ValueError, StoreFailed):  # damaged, or not to be read
            continue
        if manifest is not None and same_images(manifest, kinds):
            yield manifest


def _rows(manifest: Manifest) -> dict[str, Indexed]:
    rows = {}
    for number, row in enumerate(manifest.rows()):
        details = json.loads(row.details or "{}")
        if "left_out" not in details:
            rows[row.name] = Indexed(manifest.sidecar(number), row.samples, details.get("lost", {}))
    return rows
