"""The room that the node's cache takes on its disk: bounded for all processes together, the oldest pages go out.

A page is counted before it is written, and its file is given its full size when it is counted. So the files of the
folder never have more bytes than the limit, whenever a process is killed: what the counter holds too much, the next
look into the folder corrects.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

KEPT = 0.95  # of the limit, when pages go out
ABANDONED = 600.0  # seconds; a page that takes longer to write belongs to a process that was killed
WAIT = 10.0  # seconds for the counter; another process may be looking through the folder
_COUNTER = struct.Struct("<Q")
_PAGE = re.compile(r"[0-9a-f]{64}\.page")
_DRAFT = re.compile(r"[0-9a-f]{64}\.[0-9a-f]{16}\.part")


class _File(NamedTuple):
    used: float
    size: int
    path: str


class Room:
    """See the module.

    Args:
        folder: of the cache; pages lie in subfolders of it. Files with other names are left alone.
        limit: bytes of all pages together.
    """

    def __init__(self, folder: str, limit: int) -> None:
        self._folder, self._limit = folder, limit

    def draft(self, path: str, size: int) -> int | None:
        """Make a file of `size` bytes to write a page to, and let pages go out as needed.

        Returns its descriptor; None: there is no room, or others keep the counter for long. Raises OSError: the disk
        is full or cannot be written.
        """
        if size > self._limit:
            return None
        with self._counter() as counter:
            if counter is None:
                return None
            taken = _read(counter)
            if taken is None or taken + size > self._limit:
                taken = self._clear(size)
            _write(counter, taken + size)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, size)
            except OSError:
                os.close(descriptor)
                os.unlink(path)
                raise
            return descriptor

    def publish(self, draft: str, path: str) -> None:
        """Give a draft the name of its page. Under the lock, since who looks through a folder meanwhile may see a file
        that is renamed twice, or not at all. Raises OSError.
        """
        with self._counter() as counter:
            if counter is None:
                os.unlink(draft)
            else:
                os.rename(draft, path)

    def settle(self) -> None:
        """Let pages go out that are too many: the limit may have been larger before. Raises OSError."""
        with self._counter() as counter:
            if counter is not None and ((taken := _read(counter)) is None or taken > self._limit):
                _write(counter, self._clear(0))

    def taken(self) -> int:
        """Bytes of all files, by looking into the folder. Raises OSError."""
        with self._counter():
            return sum(file.size for file in self._files())

    @contextmanager
    def _counter(self) -> Iterator[int | None]:
        """The counter's file, locked; None: it could not be had."""
        os.makedirs(self._folder, exist_ok=True)
        descriptor = os.open(
            os.path.join(self._folder, "counter"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            yield descriptor if lock(descriptor, WAIT) else None
        finally:
            os.close(descriptor)

    def _clear(self, size: int) -> int:
        """Let the oldest pages go out, so that `size` fits. Returns the bytes of the rest."""
        files = sorted(self._files())
        taken = sum(file.size for file in files)
        target = min(self._limit - size, int(KEPT * self._limit)) if taken + size > self._limit else taken
        for file in files:
            if taken <= target:
                break
            if file.path.endswith(".page"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(file.path)
                taken -= file.size
        return taken

    def _files(self) -> list[_File]:
        """Pages and drafts; a draft that a process left behind is removed."""
        found = []
        with os.scandir(self._folder) as folders:
            inside = [entry.path for entry in folders if re.fullmatch("[0-9a-f]{2}", entry.name) and _is_folder(entry)]
        for folder in inside:
            with os.scandir(folder) as entries:
                for entry in entries:
                    draft = _DRAFT.fullmatch(entry.name) is not None
                    if not draft and not _PAGE.fullmatch(entry.name):
                        continue
                    with contextlib.suppress(FileNotFoundError):
                        stat = entry.stat(follow_symlinks=False)
                        if draft and time.time() - stat.st_mtime > ABANDONED:
                            os.unlink(entry.path)
                        else:
                            found.append(_File(stat.st_mtime, stat.st_size, entry.path))
        return found


def lock(descriptor: int, seconds: float) -> bool:
    """Take the lock of an open file, waiting so long. It ends with the descriptor, and with the process.

    Raises OSError where the file system knows no locks.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.005)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False)


def _read(counter: int) -> int | None:
    """None: it is new, or damaged."""
    data = os.pread(counter, _COUNTER.size + 1, 0)
    return int(_COUNTER.unpack(data)[0]) if len(data) == _COUNTER.size else None


def _write(counter: int, taken: int) -> None:
    os.pwrite(counter, _COUNTER.pack(taken), 0)
    os.ftruncate(counter, _COUNTER.size)
