"""The files of a folder and the folders in it, in an order that does not depend on the file system."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple


class Folder(NamedTuple):
    """The files of one folder.

    Attributes:
        path: relative to the root, with a slash at its end; empty for the root.
        files: sorted names of regular files, and of links to such.
        odd: sorted names of what is neither a regular file nor a folder: pipes, devices, links to nowhere.
        again: whether it is a link that is not followed, since the folder is visited anyway; nothing is listed.
        readable: whether it could be listed.
    """

    path: str
    files: list[str]
    odd: list[str]
    again: bool = False
    readable: bool = True


def walk(root: str, leave_out: str | None = None) -> Iterator[Folder]:
    """All folders under `root`, each before those in it; those of one folder in alphabetical order.

    Links to folders elsewhere are followed, and no folder is visited twice: links may lead in circles. Hidden names are
    passed over. One folder's names are held in memory at a time, and the path of every folder.

    Args:
        root: must exist.
        leave_out: a folder that is not visited.
    """
    top = os.path.realpath(root)
    left_out = os.path.realpath(leave_out) if leave_out is not None else None
    seen: set[str] = set()
    waiting = [("", top)]
    while waiting:
        path, real = waiting.pop()
        if real == left_out:
            continue
        if real in seen:
            yield Folder(path, [], [], again=True)
            continue
        seen.add(real)
        names: dict[str, list[str]] = {"files": [], "odd": [], "folders": [], "links": []}
        try:
            with os.scandir(os.path.join(root, path)) as entries:
                for entry in entries:
                    if not entry.name.startswith("."):
                        names[_kind(entry)].append(entry.name)
        except OSError:
            yield Folder(path, [], [], readable=False)
            continue
        inside = [(name, f"{real.rstrip('/')}/{name}") for name in names["folders"]]
        links = [(name, os.path.realpath(os.path.join(root, path, name))) for name in names["links"]]
        yield Folder(path, sorted(names["files"]), sorted(names["odd"]))
        followed = []
        for name, to in sorted(links):
            if _within(to, top):
                yield Folder(f"{path}{name}/", [], [], again=True)
            else:
                followed.append((name, to))
        waiting += [(f"{path}{name}/", to) for name, to in sorted(inside + followed, reverse=True)]


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        if entry.is_dir():
            return "links" if entry.is_symlink() else "folders"
        return "files" if entry.is_file() else "odd"
    except OSError:  # a link in a circle
        return "odd"
