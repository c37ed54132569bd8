"""Whole files and objects: what is there, how large it is; reading and writing small ones.

All of these may be called with local and remote addresses. The remote ones use obstore in this process: one that will
fork worker processes afterwards calls only :func:`fetch_apart`.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from silc.errors import StoreFailed
from silc.storage.address import check_address, is_remote, join, shorten, split_remote
from silc.storage.connect import obstore
from silc.storage.local import LocalStore, list_local, put_local, stat_local
from silc.storage.remote import RemoteStore
from silc.storage.store import Limits, Range, Stat
from silc.text import plural

PATIENCE = 120.0  # seconds; before training starts, somebody may be waiting at a terminal
SEVERAL = 3  # reads of an object that changes meanwhile
WRONG, FAILED = 3, 4  # exit statuses of silc.storage.fetch for ValueError and StoreFailed
MAX_WORDS = 2000  # characters of its message
SPARE = 60.0  # seconds that it may take beyond the patience


def stat(address: str, *, patience: float = PATIENCE, limits: Limits | None = None) -> Stat | None:
    """Size and version of a file or object; None: there is nothing, or a folder.

    Raises:
        StoreFailed: it could not be looked at.
        ValueError: the address is wrong, or names a pipe or device.
    """
    check_address(address, "address")
    limits = limits or Limits()
    if is_remote(address):
        return _remote(patience, limits).stat(address)
    return stat_local(address, patience=patience, limits=limits)


def read_whole(address: str, limit: int, *, patience: float = PATIENCE, limits: Limits | None = None) -> bytes:
    """All bytes of a file or object, of one version.

    limit: bytes it may have.

    Raises:
        ValueError: it has more than `limit` bytes, there is nothing, or the address is wrong.
        StoreFailed: it could not be read, or changed each time.
    """
    limits = limits or Limits()
    for _ in range(SEVERAL):
        before = stat(address, patience=patience, limits=limits)
        if before is None:
            raise ValueError(f"{shorten(address)} does not exist, or is a folder")
        if before.size > limit:
            raise ValueError(f"{shorten(address)} has {before.size} bytes; at most {limit} are read")
        wanted = [Range(address, 0, before.size)]
        if is_remote(address):
            (data,) = _remote(patience, limits).read(wanted)
        else:
            (data,) = LocalStore(patience=patience, limits=limits).read(wanted)
        if len(data) == before.size and stat(address, patience=patience, limits=limits) == before:
            return data
    raise StoreFailed(f"{shorten(address)} changed while it was read, {SEVERAL} times; see who writes to it")


def list_tars(folder: str, *, patience: float = PATIENCE, limits: Limits | None = None) -> list[str]:
    """Addresses of the *.tar files or objects directly under a folder, sorted; none where there is no such folder.

    Raises:
        StoreFailed: it could not be listed.
        ValueError: the address is wrong, or an http one.
    """
    check_address(folder, "folder")
    limits = limits or Limits()
    if not is_remote(folder):
        return list_local(folder, patience=patience, limits=limits)
    if split_remote(folder).scheme in ("http", "https"):
        raise ValueError(f"{shorten(folder)} cannot be listed, being on a web server; name the shards or a manifest")

    def ask(store: Any, path: str) -> list[str]:
        found = obstore().list_with_delimiter(store, path or None)["objects"]
        return [item["path"].rpartition("/")[2] for item in found]

    names = _remote(patience, limits).call(folder, ask, "listed")
    return [join(folder, name) for name in sorted(names) if name.endswith(".tar") and not name.startswith(".")]


def put(address: str, data: bytes, *, patience: float = PATIENCE, limits: Limits | None = None) -> None:
    """Write a file or object, whole or not at all; folders are made.

    Raises:
        OSError: a local file cannot be written.
        StoreFailed: an object cannot be written.
        ValueError: the address is wrong.
    """
    check_address(address, "address")
    if not is_remote(address):
        return put_local(address, data)

    def ask(store: Any, path: str) -> None:
        obstore().put(store, path, data, use_multipart=False)

    return _remote(patience, limits or Limits()).call(address, ask, "written")


def fetch_apart(address: str, limit: int, *, patience: float = PATIENCE) -> bytes:
    """:func:`read_whole` in a process of its own, so that this one does not use obstore and can fork."""
    check_address(address, "address")
    if not is_remote(address):
        return read_whole(address, limit, patience=patience)
    root = str(Path(__file__).parents[2])  # the checkout: a script may have found it by itself
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    command = [sys.executable, "-P", "-m", "silc.storage.fetch", address, str(limit), str(patience)]
    longest = 2 * patience + SPARE
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=longest,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            check=False,
        )
    except subprocess.TimeoutExpired:
        done = None
    if done is None:
        raise StoreFailed(f"{shorten(address)} could not be read in {longest:.0f} s; check the store")
    if done.returncode == 0 and len(done.stdout) <= limit:
        return done.stdout
    words = done.stderr.decode("utf-8", "replace")[:MAX_WORDS].strip()
    if done.returncode == WRONG:
        raise ValueError(words)
    if done.returncode == FAILED:
        raise StoreFailed(words)
    raise StoreFailed(
        f"{shorten(address)} could not be read: the process that reads it ended with status {done.returncode} after "
        f"{plural(len(done.stdout), 'byte')}; check the store and the installation of obstore"
    )


def _remote(patience: float, limits: Limits) -> RemoteStore:
    """A store that is used again, as long as the process and what the environment says of stores are the same."""
    names = sorted(name for name in os.environ if name.startswith(("AWS_", "GOOGLE_", "AZURE_", "HOME")))
    return _made(os.getpid(), patience, limits, hash(tuple((name, os.environ[name]) for name in names)))


@functools.lru_cache(maxsize=4)
def _made(process: int, patience: float, limits: Limits, environment: int) -> RemoteStore:
    return RemoteStore(patience=patience, limits=limits)
