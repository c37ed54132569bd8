"""Where an index is kept when it cannot lie beside its shards, and how processes take turns at making one."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from silc.storage import is_remote, local_path, put

LOCK = ".shards.manifest.lock"  # in the folder of an index
Say = Callable[[str], None]
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


def cache_root() -> Path:
    """The folder of caches: $SILC_CACHE, or $XDG_CACHE_HOME/silc, or ~/.cache/silc."""
    if own := os.environ.get("SILC_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "silc"


def cache_of(*words: str) -> Path:
    """The folder in the cache of the index that these words tell apart. It need not exist."""
    joined = "\0".join(words).encode("utf-8", "surrogateescape")
    return cache_root() / "shards" / hashlib.sha256(joined).hexdigest()[:32]


def made(folder: Path) -> Path:
    """A folder of the cache, made if missing. Raises ValueError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"the cache folder {folder} cannot be made ({error.strerror}); set SILC_CACHE to a folder that can be "
            "written to"
        ) from None
    return folder


def write(path: Path, data: bytes) -> None:
    """Write a file of the cache. Raises ValueError where that cannot be."""
    try:
        put(str(path), data)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written ({error.strerror}); make room there, or set SILC_CACHE to another folder"
        ) from None


def absolute(address: str) -> str:
    """An address that means the same in every working directory."""
    if is_remote(address):
        return address
    path = os.path.abspath(local_path(address))
    return path + "/" if address.endswith("/") and not path.endswith("/") else path


@contextmanager
def only_one(path: Path, say: Say) -> Iterator[None]:
    """Hold the lock file `path`, which is removed in the end; the system frees it if this process dies.

    say: told when another process holds it. Where the file system has no locks, processes do not wait for each other:
    every file is written whole, so that they only do the same work twice.
    """
    while True:
        # A lock needs no permission to write: the file may be what another user's process left.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_CREAT, 0o666), "rb") as handle:
            _lock(handle.fileno(), path, say)
            if _is_still(handle.fileno(), path):  # the process that was waited for has removed it
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return


def _lock(descriptor: int, path: Path, say: Say) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"another process is making the index, waiting for it ({path})")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def _is_still(descriptor: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    return False
