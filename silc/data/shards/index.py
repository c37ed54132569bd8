"""The samples of local shards, held in memory and read in any order: for evaluation, and for training on few shards."""

from __future__ import annotations

import io
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from silc.data.shards.errors import Unreadable
from silc.data.shards.expand import expand_shards
from silc.data.shards.samples import Sample, first_key, parse, scan_file
from silc.text import plural

log = logging.getLogger(__name__)

OPEN_SHARDS = 64  # files each process keeps open

Columns = Mapping[str, Sequence[str]]
"""Name of a column -> the extensions that may contain it, the preferred one first."""


@dataclass(frozen=True)
class Shard:
    """Where the samples of a local shard are.

    Attributes:
        path: of the tar.
        starts: uint64 [n + 1], see :class:`silc.data.shards.samples.Scan`.
        extensions: of all members found -> their number.
    """

    path: str
    starts: np.ndarray
    extensions: Mapping[str, int]

    @property
    def name(self) -> str:
        return Path(self.path).stem


class ShardIndex:
    """The samples of a list of shards, and their bytes.

    Args:
        patterns: see :func:`expand_shards`.
        columns: the members of a sample that are read.
        required: columns that at least one sample must have.
        what: where the shards are named, for messages.

    Raises:
        ValueError: see :func:`expand_shards` and :func:`scan_shard`; or no sample at all, none with a required column.
    """

    def __init__(
        self, patterns: Sequence[str], columns: Columns, required: Sequence[str], what: str = "data.shards"
    ) -> None:
        self._columns = {name: [extension.lower() for extension in each] for name, each in columns.items()}
        self.shards = [self._scan(path) for path in expand_shards(patterns, what)]
        self.counts = [len(shard.starts) - 1 for shard in self.shards]
        self._files: OrderedDict[int, io.FileIO] = OrderedDict()
        self._last: tuple[tuple[int, int], Sample] | None = None
        self._lock = threading.Lock()
        if not sum(self.counts):
            raise ValueError(
                f"shards {list(patterns)} contain no sample in {plural(len(self.shards), 'tar file')}: they are empty, "
                "or their members' names have no extension"
            )
        for shard, count in zip(self.shards, self.counts, strict=True):
            if not count:
                log.warning("shard %s contains no sample", shard.path)
        for name in required:
            if not self.holds(name):
                seen = sorted(set().union(*(shard.extensions for shard in self.shards)))
                raise ValueError(
                    f"no sample in {list(patterns)} has a {name} ({'/'.join(columns[name])}); "
                    f"the extensions found are {', '.join(seen)}"
                )

    def _scan(self, path: str) -> Shard:
        scan = scan_file(path)
        for note in scan.notes:
            log.warning("shard %s is damaged (%s): %s before the damage can be used", path, note, len(scan))
        return Shard(path, scan.starts, scan.extensions)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_files": OrderedDict(), "_last": None, "_lock": None}  # open files belong to a process

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def holds(self, column: str) -> bool:
        """Whether any member has an extension of this column."""
        return any(extension in shard.extensions for shard in self.shards for extension in self._columns[column])

    def key(self, shard: int, sample: int) -> str:
        """The sample's name in logs: shard/key."""
        try:
            key: str | None = self._sample(shard, sample).key
        except Unreadable:
            with self._lock:
                key = first_key(self._bytes(shard, sample))
        return f"{self.shards[shard].name}/{key or f'sample {sample}'}"

    def read(self, shard: int, sample: int, column: str) -> bytes | None:
        """A member's bytes; None where the sample has no such member. Raises Unreadable past the end of the shard."""
        return self._sample(shard, sample).column(self._columns[column])

    def _sample(self, shard: int, sample: int) -> Sample:
        with self._lock:
            if self._last is None or self._last[0] != (shard, sample):
                self._last = (shard, sample), parse(self._bytes(shard, sample))
            return self._last[1]

    def _bytes(self, shard: int, sample: int) -> bytes:
        start, stop = self.shards[shard].starts[sample : sample + 2].tolist()
        return os.pread(self._open(shard).fileno(), stop - start, start)

    def _open(self, shard: int) -> io.FileIO:
        if shard in self._files:
            self._files.move_to_end(shard)
            return self._files[shard]
        if len(self._files) == OPEN_SHARDS:
            self._files.popitem(last=False)[1].close()
        self._files[shard] = open(self.shards[shard].path, "rb", buffering=0)  # noqa: SIM115 - kept open
        return self._files[shard]

    def close(self) -> None:
        """Close the shards; reading opens them again."""
        for file in self._files.values():
            file.close()
        self._files.clear()
