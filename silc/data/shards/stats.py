"""Size, time of change and identity of many local files at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

THREADS, HANDFUL = 32, 512  # a network file system takes a moment for each file, and answers many at once
ABSENT = -1


class Stats:
    """What the file system says of files.

    Attributes:
        sizes: int64 [n], bytes; ABSENT where there is no such file, or it may not be looked at.
        times: int64 [n], mtime in ns.
        devices, inodes: int64 [n]: equal for two names of one file.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        table = np.zeros((len(paths), 4), np.int64)

        def look(first: int) -> None:
            for i in range(first, min(first + HANDFUL, len(paths))):
                table[i] = _stat(paths[i])

        firsts = range(0, len(paths), HANDFUL)
        if len(firsts) < 2:
            for first in firsts:
                look(first)
        else:
            with ThreadPoolExecutor(min(THREADS, len(firsts))) as threads:
                list(threads.map(look, firsts))
        self.sizes, self.times, self.devices, self.inodes = table.T


def twice(stats: Sequence[Stats]) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Two names of one file among several lists, each as (list, file); None where there are none."""
    # Size and time too, since some network file systems give one inode to two files.
    table = np.concatenate([np.stack([each.devices, each.inodes, each.sizes, each.times]) for each in stats], axis=1)
    order = np.lexsort(table)
    at = np.flatnonzero((table[:, order[1:]] == table[:, order[:-1]]).all(axis=0))
    if not len(at):
        return None
    ends = np.cumsum([len(each.inodes) for each in stats])
    places = []
    for number in sorted(order[at[0] : at[0] + 2].tolist()):
        which = int(np.searchsorted(ends, number, side="right"))
        places.append((which, number - int(ends[which - 1]) * (which > 0)))
    return places[0], places[1]


def _stat(path: str) -> tuple[int, int, int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return ABSENT, 0, 0, 0
    inode = found.st_ino - 2**64 if found.st_ino >= 2**63 else found.st_ino
    return found.st_size, found.st_mtime_ns, found.st_dev, inode
