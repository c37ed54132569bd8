"""Entries of data.shards -> the indices they need, without listing or reading a remote store."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from silc.data.shards.errors import few, shorten
from silc.data.shards.expand import expand_shards
from silc.data.shards.manifest import NAME, SUFFIX, Manifest
from silc.data.shards.manifest_file import prefix_of
from silc.data.shards.places import absolute
from silc.storage import check_address, is_remote, list_tars


class Wanted(NamedTuple):
    """Shards of one folder, or of one manifest.

    Attributes:
        manifest: address of the manifest that is named, or would be that of the folder.
        named: whether an entry names it.
        addresses: of the shards, in order; None: all that the manifest lists.
        listed: whether these are what a folder with a manifest holds.
    """

    manifest: str
    named: bool
    addresses: list[str] | None
    listed: bool = False

    @property
    def folder(self) -> str:
        return prefix_of(self.manifest)

    @property
    def shown(self) -> str:
        """What names them, for messages."""
        return self.manifest if self.named else self.folder

    def again(self, caption: str | None) -> str:
        """How to make the index, for messages."""
        command = ["silc", "shards", "index", *(() if caption is None else ("--captions", caption))]
        if self.named:
            command += ["SHARDS", "--out", self.folder]
        elif self.folder.startswith(("http://", "https://")):
            command += [self.folder + "{FIRST..LAST}.tar", "--out", "FOLDER"]
        else:
            command.append(self.folder)
        return f"make it with `{shlex.join(command)}`" + (", and name FOLDER" if "FOLDER" in command else "")


def find(patterns: Sequence[str], what: str) -> list[Wanted]:
    """What the entries name, in order; neighbours of one folder together.

    Raises ValueError as :func:`silc.data.shards.expand.expand_shards`, and for addresses that cannot be read.
    """
    if not patterns:
        raise ValueError(f"no shards given: set {what} to tar files, brace patterns or folders")
    found: list[Wanted] = []
    for pattern in map(str, patterns):
        for address in map(absolute, expand_shards([pattern], what, manifests=True)):
            wanted = _wanted(address, what, named=pattern.endswith(SUFFIX))
            if not (found and _added(found[-1], wanted)):
                found.append(wanted)
    for wanted in found:
        addresses = wanted.addresses or ()
        if len(set(addresses)) < len(addresses):
            twice = next(address for address, count in Counter(addresses).items() if count > 1)
            raise ValueError(f"{what}: {shorten(twice)} is named twice")
    return found


def _wanted(address: str, what: str, *, named: bool) -> Wanted:
    if is_remote(address) and not named:
        check_address(address, what)
        if not address.endswith(".tar"):
            return Wanted(address.rstrip("/") + "/" + NAME, False, None)
    if not address.endswith(SUFFIX):
        return Wanted(prefix_of(address) + NAME, False, [address])
    if named or is_remote(address):
        return Wanted(address, True, None)
    return Wanted(address, False, list_tars(prefix_of(address)), listed=True)


def _added(last: Wanted, wanted: Wanted) -> bool:
    """Whether both are lists of shards of one folder, and are one now."""
    if last.addresses is None or wanted.addresses is None or last.manifest != wanted.manifest or wanted.listed:
        return False
    last.addresses.extend(wanted.addresses)
    return True


def rows_of(wanted: Wanted, manifest: Manifest, what: str) -> np.ndarray:
    """The numbers of the wanted shards in a manifest, int64. Raises ValueError for shards that it does not list."""
    if wanted.addresses is None:
        return np.arange(len(manifest))
    rows = numbers_of(wanted.addresses, manifest)
    if absent := [wanted.addresses[i] for i in np.flatnonzero(rows < 0)]:
        raise ValueError(f"{what}: {wanted.manifest} does not list {few(absent)}; {wanted.again(manifest.caption)}")
    return rows


def numbers_of(addresses: Sequence[str], manifest: Manifest) -> np.ndarray:
    """The number of each address in a manifest, int64; -1: it is not there."""
    if manifest.addresses == addresses:
        return np.arange(len(manifest))
    number = {address: i for i, address in enumerate(manifest.addresses)}
    return np.fromiter((number.get(address, -1) for address in addresses), np.int64, len(addresses))
