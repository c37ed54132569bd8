"""Members of a tar -> samples, by the naming of the webdataset library.

The members of a sample follow one another and share the part of their names before the first dot of the last component
(the key); what stands behind that dot is the extension, in any case. Names without an extension, hidden names, names
like ``__meta__``, links and folders are passed over.

:func:`scan` reads the headers of a whole tar once, when an index is made. :func:`parse` takes the bytes of one sample.
"""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from silc.data.shards.errors import CutShort, Unreadable
from silc.data.shards.tar import RECORD, Members, NotTar, Source, windowed
from silc.files import check_regular
from silc.text import plural

TWICE = "key comes twice"
APART = "members not adjacent"
DOTTED = "dot in the name"

AHEAD = 4096  # bytes read at a time from local files: a header, and often a caption and the next header
MAX_SAMPLES = 20_000_000  # in a shard
KINDS = 63  # extensions told apart in a shard; others share REST
REST = "..."


@dataclass(frozen=True)
class Scan:
    """What the headers of a tar tell.

    Attributes:
        starts: uint64 [n + 1]: offset of each sample's first header (pax and long-name headers before it included); the
            last is the end of the last sample.
        size: of the file, in bytes.
        extensions: lower-case extension -> members; at most KINDS of them, the rest under REST.
        lost: samples that cannot be used, by reason.
        notes: sentences about damage, for the log.
        hashes: uint64 [n], caption hash of each sample; None: not asked for.
    """

    starts: np.ndarray
    size: int
    extensions: dict[str, int]
    lost: dict[str, int]
    notes: list[str]
    hashes: np.ndarray | None

    def __len__(self) -> int:
        return len(self.starts) - 1


@dataclass(frozen=True)
class Sample:
    """One sample's members: lower-case extension -> bytes."""

    key: str
    members: dict[str, memoryview]

    def column(self, extensions: Sequence[str]) -> bytes | None:
        """The first of these lower-case extensions that it has; None where it has none."""
        for extension in extensions:
            if extension in self.members:
                return bytes(self.members[extension])
        return None


def split_name(name: bytes) -> tuple[bytes, bytes] | None:
    """Key and lower-case extension of a member's name; None where it is passed over."""
    base = name.rfind(b"/") + 1
    dot = name.find(b".", base)
    if dot <= base:  # none, or the first character
        return None
    if name.startswith(b"__"):
        top = name.partition(b"/")[0]
        if len(top) > 3 and top.endswith(b"__"):
            return None
    return name[:dot], name[dot + 1 :].lower()


def scan(source: Source, size: int, name: str, *, caption: str | None = None, images: Sequence[str] = ()) -> Scan:
    """Read the headers of a tar, forward, and group its members into samples.

    Args:
        source: of its bytes.
        size: in bytes.
        name: of the shard, for messages.
        caption: extension of the captions whose hashes are wanted.
        images: extensions of images.

    Raises:
        ValueError: the file is not a tar, or has more than MAX_SAMPLES samples.
    """
    starts = array("Q")
    extensions: Counter[str] = Counter()
    notes = []
    current = None
    members = Members(windowed(source, size, AHEAD), size)
    end = 0
    try:
        for start, regular, path, offset, length in members:
            if not regular or (parts := split_name(path)) is None:
                continue
            key, extension = parts
            if key != current:
                starts.append(start)
                current = key
            extensions[extension.decode("utf-8", "surrogateescape")] += 1
            end = offset + -(-length // RECORD) * RECORD
    except NotTar as error:
        raise ValueError(f"shard {name} is {error}") from None
    except CutShort as cut:
        end = cut.at
        notes.append(f"{cut} at byte {cut.at}: {plural(size - cut.at, 'byte')} behind it cannot be used")
    starts.append(min(end, size))
    return Scan(np.array(starts, dtype=np.uint64), size, dict(extensions), {}, notes, None)


def scan_file(path: str, *, caption: str | None = None, images: Sequence[str] = ()) -> Scan:
    """:func:`scan` of a local file. Raises ValueError also for what is no regular file, and OSError."""
    check_regular(path)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size
        return scan(
            lambda start, stop: os.pread(descriptor, stop - start, start), size, path, caption=caption, images=images
        )
    finally:
        os.close(descriptor)


def parse(data: bytes) -> Sample:
    """The first sample in the bytes of its range; what belongs to another key is ignored.

    Raises:
        Unreadable: the bytes do not begin with a sample, or end inside it.
    """
    key, found, view = None, {}, memoryview(data)
    try:
        for _, regular, name, offset, length in Members(lambda start, stop: data[start:stop], len(data)):
            if not regular or (parts := split_name(name)) is None:
                continue
            if key is None:
                key = parts[0]
            elif key != parts[0]:
                break
            found[parts[1].decode("utf-8", "surrogateescape")] = view[offset : offset + length]
    except NotTar:
        raise Unreadable("no sample where the index points") from None
    except CutShort:
        raise Unreadable("cut off by the end of a damaged shard") from None
    if key is None:
        raise Unreadable("no sample where the index points")
    return Sample(key.decode("utf-8", "surrogateescape"), found)


def first_key(data: bytes) -> str | None:
    """Key of the sample that the bytes of a range begin with, also of one that is cut; None where there is none."""
    try:
        for _, regular, name, _, _ in Members(lambda start, stop: data[start:stop], len(data)):
            if regular and (parts := split_name(name)) is not None:
                return parts[0].decode("utf-8", "surrogateescape")
    except (NotTar, CutShort):
        pass
    return None


def caption_hash(caption: bytes | None, key: bytes) -> bytes:
    """8 bytes that are equal for captions that differ in case and white space alone.

    A caption that is missing, empty or not utf-8 has the hash of its key and equals no other of its shard.
    """
    try:
        words = (caption or b"").decode("utf-8").casefold().split()
    except UnicodeDecodeError:
        words = []
    text = " ".join(words).encode() if words else b"\0" + key
    return blake2b(text, digest_size=8).digest()


def lost_of(scans: Sequence[Scan]) -> Mapping[str, int]:
    """Lost samples of all shards, by reason."""
    total: Counter[str] = Counter()
    for each in scans:
        total.update(each.lost)
    return total
