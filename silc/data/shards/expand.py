"""Patterns -> addresses of shards: which local files and remote objects a list of names stands for."""

from __future__ import annotations

import glob
import itertools
import os
import stat
from collections.abc import Iterable, Iterator, Sequence

from braceexpand import braceexpand

from silc.data.shards.braces import count_names
from silc.data.shards.errors import shorten
from silc.storage import check_address, is_remote, local_path

MANIFEST = ".manifest"  # a list of shards with their counts, in place of the shards
FOLDER_MANIFEST = "shards.manifest"
MAX_NAMES = 10_000_000
_INDEX = (".tar.idx", ".tar.cap", f"/{FOLDER_MANIFEST}")  # beside shards; a wildcard does not mean them

Seen = dict[object, str]
"""What tells files apart -> the name by which the file was given first."""


def expand_shards(patterns: Sequence[str], what: str = "data.shards", *, manifests: bool = False) -> list[str]:
    """Addresses of the shards that brace patterns, wildcards, folders (all their *.tar) and plain names stand for, in
    order.

    Remote addresses are taken as they are after the braces: a remote folder stays one, for the caller to list. So do
    names of manifests (`.manifest`).

    Args:
        patterns: as a user gave them.
        what: where they are named, for messages.
        manifests: whether a local folder that holds FOLDER_MANIFEST stands for that file, not for its tar files.

    Raises:
        ValueError: a pattern that matches nothing or stands for more than MAX_NAMES names, a file that is missing, is
            no regular file or is named twice (by links too), a remote wildcard, or an address of an unknown kind.
    """
    if not patterns:
        raise ValueError(f"no shards given: set {what} to tar files, brace patterns or folders")
    found: list[str] = []
    seen: Seen = {}
    for name in _names([str(pattern) for pattern in patterns], what):
        for address in [name] if is_remote(name) else _local(local_path(name), what, manifests):
            _note(address, what, seen)
            found.append(address)
            if len(found) > MAX_NAMES:
                raise ValueError(f"{what} stands for more than {MAX_NAMES:,} names")
    return found


def _names(patterns: Iterable[str], what: str) -> Iterator[str]:
    """The names that patterns stand for after the braces; checked before any is made."""
    left = MAX_NAMES
    for pattern in patterns:
        _check_pattern(pattern, what)
        try:
            left -= count_names(pattern)
        except ValueError as error:
            raise ValueError(f"{what}: {shorten(pattern)!r}: {error}") from None
        if left < 0:
            raise ValueError(f"{what}: {shorten(pattern)!r}: more than {MAX_NAMES:,} names; check the braces")
        yield from braceexpand(pattern)


def _check_pattern(pattern: str, what: str) -> None:
    shown = repr(shorten(pattern))
    if not pattern.strip() or "\0" in pattern:
        raise ValueError(f"{what}: {shown} is no name of a file")
    if not is_remote(pattern) and not pattern.lower().startswith("pipe:"):
        return
    check_address(pattern, what)
    if glob.has_magic(pattern):
        raise ValueError(
            f"{what}: {shown} has a wildcard, and a remote store is not searched; name the shards by a brace pattern "
            "like {00000..00099}.tar, or their folder"
        )


def _local(name: str, what: str, manifests: bool) -> list[str]:
    shown = repr(shorten(name))
    if os.path.isdir(name):
        manifest = os.path.join(name, FOLDER_MANIFEST)
        if manifests and os.path.isfile(manifest):
            return [manifest]
        found = _search(os.path.join(glob.escape(name), "*.tar"))
        if not found:
            raise ValueError(f"{what}: folder {shown} holds no .tar; make shards of what is in it: silc shards pack")
    elif glob.has_magic(name) and not os.path.lexists(name):
        found = [path for path in _search(name) if not path.endswith(_INDEX)]
        if not found:
            raise ValueError(f"{what}: no tar file matches {shown}")
    else:
        found = [name]
    return found


def _search(pattern: str) -> list[str]:
    return sorted(itertools.islice(glob.iglob(pattern), MAX_NAMES + 1))


def _note(address: str, what: str, seen: Seen) -> None:
    """Raises ValueError for what is no file, or was there before."""
    file = address if is_remote(address) else _file(address, what)
    if file not in seen:
        seen[file] = address
        return
    earlier = seen[file]
    if earlier == address:
        raise ValueError(f"{what}: {shorten(address)} is named twice")
    raise ValueError(f"{what}: {shorten(earlier)} and {shorten(address)} are the same file; name it once")


def _file(path: str, what: str) -> object:
    """What tells a local file apart, under whatever name."""
    shown = shorten(path)
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{what}: no such file or folder {shown!r}") from None
    except OSError as error:
        raise ValueError(f"{what}: {shown!r} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe, socket or device"
        raise ValueError(f"{what}: {shown!r} is {kind}, not a tar file")
    # With size and time, since some network file systems give one inode to two files.
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
