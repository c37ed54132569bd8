"""A lock on a folder, held by one process until it ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from pathlib import Path

from silc.processes import Known, known

LOCK = ".lock"  # name of the file
LIMIT = 4096  # bytes of it that are read
PATIENCE = 10.0  # seconds to wait for a lock whose holder has ended: what it forked may hold it a little longer
LEASE = 100.0  # seconds more for a holder on another machine: NFSv4 frees locks of a dead one after 90
WITHOUT = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)  # of file systems that know no locks

_held: set[int] = set()  # descriptors


class Held(ValueError):
    """Another process holds the lock; the message names it."""


class Lock:
    """Holds the lock on a folder from here on.

    flock, not a file that is there or not: the system frees it with the process, so that none is ever stale. NFS since
    Linux 2.6.12 makes a lock of the whole file on the server of it, which holds between machines; a file system that
    knows no locks is named once, and does without.

    Args:
        folder: must exist.
        patient: whether to wait some seconds where the holder has ended.

    Raises:
        Held: another process has it.
        OSError: the file cannot be made.
    """

    def __init__(self, folder: Path, *, patient: bool = True) -> None:
        self._path = folder / LOCK
        self._descriptor: int | None = None
        ends, said = time.monotonic() + PATIENCE, False
        while not self._take():
            holder = _Holder.read(self._path)
            elsewhere = holder.elsewhere()
            waits = time.monotonic() < ends + (LEASE if elsewhere else 0) and (elsewhere or holder.has_ended())
            if not patient or not waits:
                way = f"; if that machine is dead, remove {self._path}" if elsewhere else ""
                raise Held(
                    f"another run writes to {folder}: {holder}; wait for its end or stop it, or take another "
                    f"train.out{way}"
                )
            if elsewhere and not said:
                said = True
                print(
                    f"{folder} is locked by {holder}: waiting {PATIENCE + LEASE:.0f} s, in which a file server frees "
                    "the locks of a machine that is dead",
                    flush=True,
                )
            time.sleep(0.2)

    def _take(self) -> bool:
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(descriptor)
                if error.errno in WITHOUT:
                    print(
                        f"{self._path.parent} is on a file system without locks ({error.strerror}): two runs that are "
                        "started into it at once would not be told apart",
                        flush=True,
                    )
                    return True
                if isinstance(error, BlockingIOError):
                    return False
                raise
            self._descriptor = descriptor
            if self.there():  # else its last holder has removed the file since it was opened
                break
            os.close(descriptor)
        _held.add(descriptor)
        with contextlib.suppress(OSError):  # a full disk: the lock holds without a name
            os.ftruncate(descriptor, 0)
            os.write(descriptor, _Holder.this().text().encode())
        return True

    def there(self) -> bool:
        """Whether the file that is locked is still the one in the folder; True where there are no locks."""
        if self._descriptor is None:
            return True
        try:
            return os.path.samestat(os.fstat(self._descriptor), self._path.stat())
        except OSError:
            return False

    def release(self) -> None:
        """Free it, and remove its file. A second call does nothing."""
        if self._descriptor is None:
            return
        with contextlib.suppress(OSError):
            if self.there():
                self._path.unlink()
        _held.discard(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = None


class _Holder:
    """host: name of a machine. process: on it."""

    def __init__(self, host: str, process: Known | None) -> None:
        self.host, self.process = host, process

    @classmethod
    def this(cls) -> _Holder:
        return cls(socket.gethostname(), known(os.getpid()) or Known(os.getpid(), -1))

    @classmethod
    def read(cls, path: Path) -> _Holder:
        try:
            with path.open("rb") as file:
                found = json.loads(file.read(LIMIT))
            return cls(str(found["host"])[:100], Known(int(found["pid"]), int(found["started"])))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return cls("", None)

    def text(self) -> str:
        assert self.process is not None
        return json.dumps({"host": self.host, **self.process._asdict()}) + "\n"

    def elsewhere(self) -> bool:
        return self.process is not None and self.host != socket.gethostname()

    def has_ended(self) -> bool:
        return self.process is not None and self.host == socket.gethostname() and not self.process.alive

    def __str__(self) -> str:
        if self.process is None:
            return "a process that has not written its name yet"
        return f"process {self.process.pid} of {self.host}"


def _let_go() -> None:
    """A fork, a data worker say, must not hold its parent's locks when that has ended."""
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
