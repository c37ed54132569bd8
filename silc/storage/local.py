"""Files of the local file system, network file systems among them."""

from __future__ import annotations

import errno
import functools
import os
import stat as modes
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from silc.files import check_regular, replacing
from silc.storage.address import local_path
from silc.storage.board import Notes
from silc.storage.retry import Lasting, Nothing, Trouble, persist
from silc.storage.store import Limits, Range, Stat

OPEN_FILES = 64  # that a store keeps open

_ABSENT = {errno.ENOENT, errno.ENOTDIR}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.EROFS}
# All others may pass: EIO, ESTALE, ETIMEDOUT, ENOTCONN of network file systems, EMFILE of a busy process.


class LocalStore:
    """Reads ranges of local files; keeps the last few open.

    Args:
        patience: seconds that a file may fail in a row (one that is absent: Limits.absent).
        limits: see there.
        notes: where retries and bytes are noted.
    """

    def __init__(self, *, patience: float = 600.0, limits: Limits | None = None, notes: Notes | None = None) -> None:
        self._patience, self._limits, self._notes = patience, limits or Limits(), notes
        self._files: OrderedDict[str, _Open] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__ | {"_files": OrderedDict(), "_notes": None}  # open files belong to a process
        del state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        """See :class:`silc.storage.Store`."""
        if len(ranges) > 1:
            self._announce(ranges)
        found = [self._read(wanted) for wanted in ranges]
        if self._notes is not None:
            self._notes.add(bytes_read=sum(map(len, found)))
        return found

    def close(self) -> None:
        """See :class:`silc.storage.Store`."""
        with self._lock:
            self._files.clear()

    def _announce(self, ranges: Sequence[Range]) -> None:
        """Let the kernel fetch all ranges side by side while they are read one after the other."""
        for wanted in ranges[:OPEN_FILES]:
            try:
                file = self._open(wanted.address)
                os.posix_fadvise(file.descriptor, wanted.start, wanted.stop - wanted.start, os.POSIX_FADV_WILLNEED)
            except (OSError, Trouble):
                return  # reading will tell

    def _read(self, wanted: Range) -> bytes:
        ask = functools.partial(self._try, wanted)
        return persist(ask, wanted.address, patience=self._patience, limits=self._limits, notes=self._notes)

    def _try(self, wanted: Range) -> bytes:
        try:
            file = self._open(wanted.address)  # held while it is read: another thread may put it out of the list
            return _pread(file.descriptor, wanted)
        except OSError as error:
            trouble = _trouble(error)
        with self._lock:
            self._files.pop(wanted.address, None)  # a stale handle stays stale
        raise trouble

    def _open(self, address: str) -> _Open:
        with self._lock:
            if (file := self._files.get(address)) is not None:
                self._files.move_to_end(address)
                return file
        file = _Open(local_path(address))
        with self._lock:
            self._files[address] = file
            while len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)
        return file


class _Open:
    """An open file. It is closed when the last thread that reads from it has let go of it."""

    def __init__(self, path: str) -> None:
        self.descriptor = -1
        try:
            check_regular(path)  # before it is opened: a tape is rewound by that, and a pipe waits for its writer
            self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except ValueError as error:
            wrong = str(error).removeprefix(f"{path} is ").partition(";")[0]
        else:
            if modes.S_ISREG(os.fstat(self.descriptor).st_mode):
                # Ranges come from anywhere: reading ahead would fetch what nobody asked for.
                os.posix_fadvise(self.descriptor, 0, 0, os.POSIX_FADV_RANDOM)
                return
            wrong = "no regular file any more"
        raise Trouble(wrong, "give regular files", Lasting.REFUSED)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


def _pread(descriptor: int, wanted: Range) -> bytes:
    """All bytes of a range, or up to the end of the file. A single read may return fewer, above 2 GiB for one."""
    parts, at = [], wanted.start
    while at < wanted.stop and (part := os.pread(descriptor, wanted.stop - at, at)):
        parts.append(part)
        at += len(part)
    if at < wanted.stop and at < (size := os.fstat(descriptor).st_size):
        raise Trouble(f"it ends at byte {at}, but has {size}", "check its file system")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _trouble(error: OSError) -> Trouble:
    number = error.errno or 0
    words = f"{os.strerror(number)} ({errno.errorcode.get(number, number)})" if number else type(error).__name__
    if number in _ABSENT:
        return Nothing(words, "check the path and its file system", Lasting.ABSENT)
    if number in _REFUSED:
        return Trouble(words, "check its permissions", Lasting.REFUSED)
    return Trouble(words, "check its file system")


def stat_local(address: str, *, patience: float, limits: Limits) -> Stat | None:
    """Size and mtime of a regular file; None: there is nothing, or a folder. ValueError: a pipe or device."""
    path = local_path(address)

    def ask() -> Stat | None:
        try:
            found = os.stat(path)
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            trouble = _trouble(error)
        else:
            if modes.S_ISDIR(found.st_mode):
                return None
            check_regular(path)
            return Stat(found.st_size, str(found.st_mtime_ns))
        raise trouble

    return persist(ask, address, patience=patience, limits=limits, verb="looked at")


def list_local(folder: str, *, patience: float, limits: Limits) -> list[str]:
    """Paths of the *.tar files of a folder, sorted; none where there is no such folder."""
    path = local_path(folder)

    def ask() -> list[str]:
        try:
            with os.scandir(path) as entries:
                # What a link leads to nowhere stays in the list: reading it will tell.
                names = [entry.name for entry in entries if entry.name.endswith(".tar") and not entry.is_dir()]
        except OSError as error:
            if error.errno in _ABSENT:
                return []
            trouble = _trouble(error)
        else:
            return [os.path.join(path, name) for name in sorted(names) if not name.startswith(".")]
        raise trouble

    return persist(ask, folder, patience=patience, limits=limits, verb="listed")


def put_local(address: str, data: bytes) -> None:
    """Write a file, whole or not at all; its folder is made. Raises OSError."""
    path = Path(local_path(address))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        draft.write_bytes(data)
