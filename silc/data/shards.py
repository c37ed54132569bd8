"""WebDataset tar shards on a local disk: which files, which samples, which bytes.

The members of a sample follow one another in the tar and share the part of their names before the first dot of the last
component (the rule of the webdataset library, whose functions expand and split the names here). The library reads
shards from front to back, but training needs any sample at any time: the headers of each shard are scanned when the run
begins (payloads are skipped), and from then on a sample is one read per member at a known place. Only the places are
kept.
"""

from __future__ import annotations

import glob
import io
import logging
import mmap
import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from webdataset.shardlists import expand_urls
from webdataset.tariterators import base_plus_ext

from silc.text import plural

log = logging.getLogger(__name__)

RECORD = 512  # a tar consists of records of this many bytes
OPEN_SHARDS = 64  # files each process keeps open
REGULAR, LONG_NAME, PAX = (b"0", b"\0", b"7"), b"L", b"x"
ABSENT = -1

Columns = Mapping[str, Sequence[str]]
"""Name of a column -> the extensions that may contain it, the preferred one first."""


class Unreadable(Exception):
    """A sample that cannot be used. The text is the reason, one of a few, so that reasons can be counted."""


@dataclass(frozen=True)
class Shard:
    """The places of a shard's samples.

    Attributes:
        path: of the tar.
        keys: of the samples, utf-8 bytes [n].
        spans: int64 [n, columns, 2]: offset (ABSENT: no such member) and size, in bytes.
        size: of the file; a span that ends beyond it is truncated.
        extensions: of all members found.
    """

    path: str
    keys: np.ndarray
    spans: np.ndarray
    size: int
    extensions: frozenset[str]

    @property
    def name(self) -> str:
        return Path(self.path).stem


def expand_shards(patterns: Sequence[str], what: str = "data.shards") -> list[str]:
    """Paths of the shards that brace patterns, wildcards, folders (all their *.tar) and plain paths name, in order.

    what: where they are named, for messages.

    Raises:
        ValueError: a pattern that matches nothing, a shard that is missing or named twice, or an address that is not a
            local path.
    """
    if not patterns:
        raise ValueError("no shards given: set data.shards to tar files, brace patterns or folders")
    paths = [path for pattern in patterns for path in _expand(str(pattern), what)]
    seen = set()
    for path in paths:
        if (place := os.path.abspath(path)) in seen:
            raise ValueError(f"shards {list(patterns)}: {path} is named twice")
        seen.add(place)
    return paths


def _expand(pattern: str, what: str) -> list[str]:
    if re.match(r"^(pipe:|[a-z0-9]+://)", pattern):
        raise ValueError(f"{what}: {pattern!r} is not on a local disk; copy or mount it and give the local path")
    paths = []
    for name in expand_urls(os.path.expanduser(pattern)):
        if os.path.isdir(name):
            found = sorted(glob.glob(os.path.join(glob.escape(name), "*.tar")))
            if not found:
                raise ValueError(f"{what}: folder {name!r} holds no .tar; pack the files as docs/data.md shows")
        elif glob.has_magic(name) and not os.path.exists(name):
            found = sorted(glob.glob(name))
        else:
            found = [name]
        if not found:
            raise ValueError(f"{what}: no tar file matches {name!r}")
        for path in found:
            if not os.path.isfile(path):
                raise ValueError(f"{what}: no such file or folder {path!r}")
        paths += found
    return paths


class CutShort(Exception):
    """The tar ends, or stops making sense, before its end mark."""


def scan_shard(path: str, columns: Columns) -> Shard:
    """Read the headers of a tar and group its members into samples.

    A truncated shard keeps the samples before the cut. The sample that is itself cut stays in the index, so that the
    stream meets it and counts it as skipped.

    Raises:
        ValueError: the file is not a plain tar.
    """
    where = {ext: (column, rank) for column, exts in enumerate(columns.values()) for rank, ext in enumerate(exts)}
    where = {ext.lower(): place for ext, place in where.items()}
    keys: list[bytes] = []
    spans: list[list[tuple[int, int]]] = []
    ranks: list[int] = []
    extensions = set()
    size = os.path.getsize(path)
    try:
        for name, offset, length in _members(path, size):
            key, ext = base_plus_ext(name)
            if key is None or re.match(
                r"__[^/]*__($|/)", name
            ):  # the library's rule for names of other things than samples
                continue
            ext = ext.lower()
            extensions.add(ext)
            encoded = key.encode("utf-8", "surrogateescape")
            if not keys or keys[-1] != encoded:
                keys.append(encoded)
                spans.append([(ABSENT, 0)] * len(columns))
                ranks = [len(where)] * len(columns)
            column, rank = where.get(ext, (ABSENT, 0))
            if column != ABSENT and rank < ranks[column]:
                spans[-1][column], ranks[column] = (offset, length), rank
    except CutShort as cut:
        log.warning(
            "shard %s is damaged (%s): %s before the damage can be used", path, cut, plural(len(keys), "sample")
        )
    places = np.array(spans, dtype=np.int64).reshape(len(keys), len(columns), 2)
    return Shard(path, np.array(keys, dtype=bytes), places, size, frozenset(extensions))


def _members(path: str, size: int) -> Iterator[tuple[str, int, int]]:
    """(name, offset, length) of the regular files in a tar (ustar, GNU, pax), in order; the last may be truncated."""
    if size < RECORD:
        raise CutShort(plural(size, "byte"))
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as tar:
        at, long_name, long_size = 0, None, None
        while at < size:
            header = tar[at : at + RECORD]
            if len(header) < RECORD:
                raise CutShort(f"cut inside a header at byte {at}")
            if not header[0] and not any(header):
                return
            if not _is_header(header):
                if at == 0:
                    raise ValueError(f"shard {path} is not a tar file; if it is compressed, unpack it")
                raise CutShort(f"no header at byte {at}")
            kind, offset = header[156:157], at + RECORD
            length = _number(header[124:136]) if long_size is None else long_size
            if kind == LONG_NAME:
                long_name = tar[offset : offset + length].rstrip(b"\0").decode("utf-8", "surrogateescape")
            elif kind == PAX:
                records = _pax(tar[offset : offset + length])
                long_name = records.get("path", long_name)
                long_size = int(records["size"]) if "size" in records else None
            else:
                if kind in REGULAR:
                    yield long_name or _name(header), offset, length
                long_name, long_size = None, None
            if offset + length > size:
                raise CutShort(f"cut at byte {size}, inside a member of {plural(length, 'byte')}")
            at = offset + -(-length // RECORD) * RECORD


def _is_header(header: bytes) -> bool:
    """Whether a record has the magic of POSIX and GNU headers or, as in older tars, a valid checksum."""
    if header[257:262] == b"ustar":
        return True
    try:
        return _number(header[148:156]) == sum(header) - sum(header[148:156]) + 8 * ord(" ")
    except CutShort:
        return False


def _number(field: bytes) -> int:
    """A number in a header: octal digits, or base 256 with the top bit set."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    try:
        return int(field.rstrip(b"\0 ") or b"0", 8)
    except ValueError:
        raise CutShort(f"{field!r} is not a number") from None


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return (prefix + b"/" + name if prefix else name).decode("utf-8", "surrogateescape")


def _pax(data: bytes) -> dict[str, str]:
    """Records of a pax extended header: lines of "length key=value", the length counting the whole line."""
    records: dict[str, str] = {}
    at = 0
    if b"path=" not in data and b"size=" not in data:  # most headers have only times and owners, which are not needed
        return records
    while at < len(data) and (blank := data.find(b" ", at)) > 0:
        end = at + int(data[at:blank])
        key, _, value = data[blank + 1 : end - 1].partition(b"=")
        records[key.decode()] = value.decode("utf-8", "surrogateescape")
        at = end
    return records


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
        self._column = {name: number for number, name in enumerate(columns)}
        self.shards = [scan_shard(path, columns) for path in expand_shards(patterns, what)]
        self.counts = [len(shard.keys) for shard in self.shards]
        self._files: OrderedDict[int, io.FileIO] = OrderedDict()
        if not sum(self.counts):
            raise ValueError(
                f"shards {list(patterns)} contain no sample in {plural(len(self.shards), 'tar file')}: they are empty, "
                "or their members' names have no extension"
            )
        for shard in self.shards:
            if not len(shard.keys):
                log.warning("shard %s contains no sample", shard.path)
        for name in required:
            if all((shard.spans[:, self._column[name], 0] == ABSENT).all() for shard in self.shards):
                seen = sorted(set().union(*(shard.extensions for shard in self.shards)))
                raise ValueError(
                    f"no sample in {list(patterns)} has a {name} ({'/'.join(columns[name])}); "
                    f"the extensions found are {', '.join(seen)}"
                )

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_files": OrderedDict()}  # open files belong to a process

    def key(self, shard: int, sample: int) -> str:
        """The sample's name in logs: shard/key."""
        return f"{self.shards[shard].name}/{self.shards[shard].keys[sample].decode('utf-8', 'replace')}"

    def read(self, shard: int, sample: int, column: str) -> bytes | None:
        """A member's bytes; None where the sample has no such member. Raises Unreadable past the end of the shard."""
        offset, length = self.shards[shard].spans[sample, self._column[column]].tolist()
        if offset == ABSENT:
            return None
        data = os.pread(self._open(shard).fileno(), length, offset)
        if len(data) < length:
            raise Unreadable("cut off by the end of a damaged shard")
        return data

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
