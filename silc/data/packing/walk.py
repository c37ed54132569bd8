"""The files of a folder and the folders in it, in an order that does not depend on the file system."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import NamedTuple


class Folder(NamedTuple):
    """The files of one folder.

    Attributes:
        path: relative to the root, with a slash at its end; empty for the root.
        files: sorted names of regular files, and of links to such.
        odd: sorted names of what is neither a regular file nor a folder: pipes, devices, links to nowhere.
        readable: whether it could be listed.
    """

    path: str
    files: list[str]
    odd: list[str]
    readable: bool = True


def walk(root: str, leave_out: str | None = None) -> Iterator[Folder]:
    """All folders under `root`, each before those in it; those of one folder in alphabetical order.

    Links to folders are followed, and a folder that several names lead to is visited once: links may lead in circles.
    Hidden names are passed over. One folder's names are held in memory at a time.

    Args:
        root: must exist.
        leave_out: a folder that is not visited.
    """
    seen: set[tuple[int, int]] = set()
    if leave_out is not None and (identity := _identity(leave_out)) is not None:
        seen.add(identity)
    waiting = [""]
    while waiting:
        path = waiting.pop()
        identity = _identity(os.path.join(root, path))
        if identity in seen:
            continue
        if identity is None:
            yield Folder(path, [], [], readable=False)
            continue
        seen.add(identity)
        files: list[str] = []
        odd: list[str] = []
        folders: list[str] = []
        try:
            with os.scandir(os.path.join(root, path)) as entries:
                for entry in entries:
                    if not entry.name.startswith("."):
                        (folders if _is_folder(entry) else files if _is_file(entry) else odd).append(entry.name)
        except OSError:
            yield Folder(path, [], [], readable=False)
            continue
        yield Folder(path, sorted(files), sorted(odd))
        waiting += [f"{path}{name}/" for name in sorted(folders, reverse=True)]


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISDIR(found.st_mode) else None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False
