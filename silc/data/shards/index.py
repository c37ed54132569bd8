"""The samples of local shards, found by scanning them and read in any order: for evaluation, and for small sets."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from silc.data.shards.errors import Unreadable, few, shorten
from silc.data.shards.expand import MANIFEST, expand_shards
from silc.data.shards.lost import Tally, check_contents, check_lost, note_lines
from silc.data.shards.reader import MAX_SAMPLE
from silc.data.shards.runs import REST
from silc.data.shards.samples import AHEAD, CUT, Scan, first_key, locate, scan_file
from silc.data.shards.tar import Source, windowed
from silc.storage import Range, is_remote, open_store
from silc.text import plural

log = logging.getLogger(__name__)

PATIENCE = 10.0  # seconds that a file may fail
LAST_SAMPLES = 64  # samples whose members' places are kept: the members are asked for one by one

Places = Mapping[str, tuple[int, int]]  # extension -> first byte and end in the file

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

    def __len__(self) -> int:
        return len(self.starts) - 1


class ShardIndex:
    """The samples of a list of local shards, and their bytes. Threads may share it.

    Args:
        patterns: see :func:`expand_shards`.
        columns: the members of a sample that are read.
        required: columns that at least one sample must have, that of the images first.
        what: where the shards are named, for messages.
        max_lost: largest share of samples that may be unusable because of how the shards were packed.

    Attributes:
        shards: in order.
        counts: samples of each.

    Raises:
        ValueError: see :func:`expand_shards`, :func:`scan_file` and :func:`check_lost`; or no sample at all, none with
            a required column.
    """

    def __init__(
        self,
        patterns: Sequence[str],
        columns: Columns,
        required: Sequence[str],
        what: str = "data.shards",
        max_lost: float = 0.1,
    ) -> None:
        self._columns = {name: [extension.lower() for extension in each] for name, each in columns.items()}
        self._store = open_store(patience=PATIENCE)
        self._last: OrderedDict[tuple[int, int], tuple[str, Places]] = OrderedDict()
        self._lock = threading.Lock()
        paths = expand_shards(patterns, what)
        _check_local(paths, what)
        images = self._columns[required[0]] if required else []
        scans = [_scan(path, images) for path in paths]
        self.shards = [Shard(path, each.starts, each.extensions) for path, each in zip(paths, scans, strict=True)]
        self.counts = [len(shard) for shard in self.shards]
        for line in note_lines((path, _notes(each)) for path, each in zip(paths, scans, strict=True)):
            log.warning(line)
        check_lost([Tally(path, len(each), each.lost) for path, each in zip(paths, scans, strict=True)], max_lost, what)
        extensions = set().union(*(shard.extensions for shard in self.shards))
        lacking = [(name, self._columns[name]) for name in required if not self.holds(name)]
        check_contents(patterns, what, len(paths), sum(self.counts), lacking, extensions)
        if empty := [shard.path for shard in self.shards if not len(shard)]:
            log.warning("no sample in %s: %s", plural(len(empty), "shard"), few(empty))

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_last": OrderedDict(), "_lock": None}  # they belong to a process

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def holds(self, column: str) -> bool:
        """Whether any sample has this column. Reads samples only where a shard has too many extensions to list."""
        wanted = self._columns[column]
        if any(extension in shard.extensions for shard in self.shards for extension in wanted):
            return True
        unlisted = [number for number, shard in enumerate(self.shards) if REST in shard.extensions]
        return any(self._has(shard, sample, wanted) for shard in unlisted for sample in range(self.counts[shard]))

    def _has(self, shard: int, sample: int, wanted: Sequence[str]) -> bool:
        try:
            return any(extension in self._places(shard, sample)[1] for extension in wanted)
        except Unreadable:
            return False

    def key(self, shard: int, sample: int) -> str:
        """The sample's name in logs: shard/key."""
        try:
            key: str | None = self._places(shard, sample)[0]
        except Unreadable:
            key = first_key(*self._range(shard, sample))
        return f"{self.shards[shard].name}/{key or f'sample {sample}'}"

    def read(self, shard: int, sample: int, column: str, limit: int = MAX_SAMPLE) -> bytes | None:
        """A member's bytes; None where the sample has no such member. Other members are not read.

        Raises:
            Unreadable: the sample is cut, or is not where it was when the shard was scanned; the member has more than
                `limit` bytes.
            StoreFailed: the file cannot be read.
        """
        places = self._places(shard, sample)[1]
        for extension in self._columns[column]:
            if extension in places:
                start, stop = places[extension]
                if stop - start > limit:
                    raise Unreadable(f"{column} of more than {limit} bytes")
                data = self._bytes(shard, start, stop)
                if len(data) < stop - start:
                    raise Unreadable(CUT)
                return data
        return None

    def _places(self, shard: int, sample: int) -> tuple[str, Places]:
        """A sample's key, and where its members are."""
        with self._lock:
            if (found := self._last.get((shard, sample))) is not None:
                return found
        source, size = self._range(shard, sample)
        first = int(self.shards[shard].starts[sample])
        key, inside = locate(source, size)
        found = key, {extension: (first + start, first + stop) for extension, (start, stop) in inside.items()}
        with self._lock:
            while len(self._last) >= LAST_SAMPLES:
                self._last.popitem(last=False)
            self._last[shard, sample] = found
        return found

    def _range(self, shard: int, sample: int) -> tuple[Source, int]:
        """The bytes of a sample's range as they are asked for, and their number."""
        first, end = self.shards[shard].starts[sample : sample + 2].tolist()
        source = windowed(lambda start, stop: self._bytes(shard, first + start, first + stop), end - first, AHEAD)
        return source, end - first

    def _bytes(self, shard: int, start: int, stop: int) -> bytes:
        return self._store.read([Range(self.shards[shard].path, start, stop)])[0]

    def close(self) -> None:
        """Close the shards; reading opens them again."""
        with self._lock:
            self._last.clear()
        self._store.close()


def _check_local(paths: Sequence[str], what: str) -> None:
    for path in paths:
        if is_remote(path):
            raise ValueError(
                f"{what}: {shorten(path)} is not on a local disk; copy or mount it and give the local path"
            )
        if path.endswith(MANIFEST):
            raise ValueError(f"{what}: {shorten(path)} is a list of shards; name the tar files or their folder")


def _scan(path: str, images: Sequence[str]) -> Scan:
    try:
        return scan_file(path, images=images)
    except OSError as error:
        raise ValueError(f"shard {shorten(path)} cannot be read: {error.strerror}") from error


def _notes(scan: Scan) -> list[str]:
    return [*scan.notes, f"has {plural(len(scan), 'sample')}"] if scan.notes else []
