"""Entries of data.shards -> the indices they need, without listing or reading a remote store."""

from __future__ import annotations

import fnmatch
import glob
import os
import shlex
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from webdataset.shardlists import expand_urls

from silc.data.shards.errors import few, shorten
from silc.data.shards.expand import expand_shards
from silc.data.shards.manifest import NAME, SUFFIX, Manifest
from silc.data.shards.manifest_file import prefix_of
from silc.data.shards.places import absolute
from silc.storage import check_address, is_remote, local_path


class Wanted(NamedTuple):
    """Shards of one folder, or of one manifest.

    Attributes:
        entry: that names them, for messages.
        manifest: address of the manifest that is named, or would be that of the folder.
        named: whether the entry names it.
        covers: whether all shards of the folder are meant.
        addresses: of the shards, in order; None: all of the manifest.
        pattern: a remote address with wildcards, to find in the manifest.
    """

    entry: str
    manifest: str
    named: bool = False
    covers: bool = False
    addresses: list[str] | None = None
    pattern: str | None = None

    @property
    def remote(self) -> bool:
        return is_remote(self.manifest)

    @property
    def folder(self) -> str:
        return prefix_of(self.manifest)


def find(patterns: Sequence[str], what: str) -> list[Wanted]:
    """What the entries name, in order; neighbours of one folder together.

    Raises ValueError as :func:`silc.data.shards.expand.expand_shards`, and for addresses that cannot be read.
    """
    if not patterns:
        raise ValueError(f"no shards given: set {what} to tar files, brace patterns or folders")
    found: list[Wanted] = []
    for entry in map(str, patterns):
        check_address(entry, what)
        for name in expand_urls(entry):
            for wanted in _remote(entry, name) if is_remote(name) else _local(entry, name, what):
                if not (found and _added(found[-1], wanted)):
                    found.append(wanted)
    return found


def _added(last: Wanted, wanted: Wanted) -> bool:
    """Whether both are lists of shards of one folder, and are one now."""
    if last.addresses is None or wanted.addresses is None or last.covers or wanted.covers:
        return False
    if last.manifest != wanted.manifest:
        return False
    last.addresses.extend(wanted.addresses)
    return True


def _local(entry: str, name: str, what: str) -> list[Wanted]:
    path = absolute(local_path(name))
    if path.endswith(SUFFIX):
        if not os.path.isfile(path):
            raise ValueError(f"{what}: no such file {shorten(path)!r}; make the index with `silc shards index`")
        return [Wanted(entry, path, named=True)]
    folder = os.path.isdir(path)
    wanted: list[Wanted] = []
    for address in expand_shards([path], what):
        manifest = prefix_of(address) + NAME
        if not wanted or wanted[-1].manifest != manifest:
            wanted.append(Wanted(entry, manifest, covers=folder, addresses=[]))
        (wanted[-1].addresses or []).append(address)
    return wanted


def _remote(entry: str, name: str) -> list[Wanted]:
    if name.endswith(SUFFIX):
        return [Wanted(entry, name, named=True)]
    if glob.has_magic(name):
        return [Wanted(entry, prefix_of(name) + NAME, pattern=name)]
    if name.endswith(".tar"):
        return [Wanted(entry, prefix_of(name) + NAME, addresses=[name])]
    return [Wanted(entry, name.rstrip("/") + "/" + NAME, covers=True)]


def rows_of(wanted: Wanted, manifest: Manifest, what: str) -> np.ndarray:
    """The numbers of the wanted shards in a manifest, int64. Raises ValueError for shards that it does not list."""
    if wanted.pattern is not None:
        rows = [i for i, address in enumerate(manifest.addresses) if fnmatch.fnmatchcase(address, wanted.pattern)]
        if not rows:
            raise ValueError(f"{what}: no shard in {wanted.manifest} matches {shorten(wanted.pattern)!r}")
        return np.array(rows, np.int64)
    if wanted.addresses is None:
        return np.arange(len(manifest))
    rows_or_not = numbers_of(wanted.addresses, manifest)
    absent = [wanted.addresses[i] for i in np.flatnonzero(rows_or_not < 0)]
    if absent:
        raise ValueError(f"{what}: {wanted.manifest} does not list {few(absent)}; {again(wanted)}")
    return rows_or_not


def numbers_of(addresses: Sequence[str], manifest: Manifest) -> np.ndarray:
    """The number of each address in a manifest, int64; -1: it is not there."""
    if manifest.addresses == addresses:
        return np.arange(len(manifest))
    number = {address: i for i, address in enumerate(manifest.addresses)}
    return np.fromiter((number.get(address, -1) for address in addresses), np.int64, len(addresses))


def again(wanted: Wanted, *options: str) -> str:
    """How to make the index that is wanted, for a message."""
    command = ["silc shards index", *options, quoted(wanted.entry if wanted.named else wanted.folder)]
    return f"make the index once with `{' '.join(command)}`"


def quoted(text: str) -> str:
    """A word of a command line."""
    return shlex.quote(text)
