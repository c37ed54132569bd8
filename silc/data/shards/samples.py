"""Members of a tar -> samples, by the naming of the webdataset library.

The members of a sample follow one another and share the part of their names before the first dot of the last component
(the key); what stands behind that dot is the extension, in any case. Names without an extension, hidden names, names
like ``__meta__``, links and folders are passed over.

:func:`scan` reads the headers of a whole tar once, when an index is made. :func:`parse` takes the bytes of one sample.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from silc.data.shards.caption_key import CaptionKey
from silc.data.shards.errors import CutShort, Unreadable
from silc.data.shards.lost import CROWDED
from silc.data.shards.runs import MAX_MEMBERS, Runs
from silc.data.shards.tar import Members, NotTar, Source, windowed
from silc.files import check_regular
from silc.text import plural

AHEAD = 8192  # bytes read at a time: a header, and often a caption and the next headers
TAIL = 1 << 20  # bytes behind the end mark that are looked at
MAX_SAMPLES = 20_000_000  # in a shard
MAX_EXTENSION = 255  # bytes, as in file systems
MAX_CAPTION = 1 << 20  # bytes of a caption that is compared with others
_UNDERSCORE = ord("_")

CUT = "cut off by the end of a damaged shard"
NOWHERE = "no sample where the index points"
DAMAGED = "a damaged header"


@dataclass(frozen=True)
class Scan:
    """What the headers of a tar tell.

    Attributes:
        starts: uint64 [n + 1]: offset of each sample's first header (pax and long-name headers before it included); the
            last is the end of the last sample. Where samples were left out, their bytes follow those of the one before.
        size: of the file, in bytes.
        extensions: lower-case extension -> members; at most KINDS of them, the rest under REST.
        lost: samples that cannot be used, by reason.
        notes: what the log should say of the shard, behind its name.
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
    """Key and lower-case extension of a member's name; None where it is passed over.

    An extension of more bytes than any file system allows is none.
    """
    base = name.rfind(b"/") + 1
    dot = name.find(b".", base)
    if dot <= base or len(name) - dot > MAX_EXTENSION + 1:  # dot == base: a hidden file
        return None
    if name[0] == _UNDERSCORE and name.startswith(b"__"):
        top = name.partition(b"/")[0]
        if len(top) > 3 and top.endswith(b"__"):
            return None
    return name[:dot], name[dot + 1 :].lower()


def parse(data: bytes | memoryview) -> Sample:
    """The first sample in the bytes of its range; what belongs to another key is ignored. See :func:`locate`."""
    view = memoryview(data)
    key, places = locate(lambda start, stop: bytes(view[start:stop]), len(view))
    return Sample(key, {extension: view[start:stop] for extension, (start, stop) in places.items()})


def locate(source: Source, size: int) -> tuple[str, dict[str, tuple[int, int]]]:
    """The first sample of a range: its key, and lower-case extension -> (start, stop) of the bytes in the range.

    Args:
        source: of the bytes of the range.
        size: of the range, in bytes.

    Raises:
        Unreadable: the bytes do not begin with a sample, or end inside it, or it has more than MAX_MEMBERS members.
    """
    key, found = None, {}
    try:
        for _, regular, name, offset, length in Members(source, size):
            if not regular or (parts := split_name(name)) is None:
                continue
            if key is None:
                key = parts[0]
            elif key != parts[0]:
                break
            found[parts[1].decode("utf-8", "surrogateescape")] = offset, offset + length
    except NotTar:
        raise Unreadable(NOWHERE) from None
    except CutShort as cut:
        raise Unreadable(CUT if cut.ended else DAMAGED) from None
    if key is None:
        raise Unreadable(NOWHERE)
    if len(found) > MAX_MEMBERS:
        raise Unreadable(CROWDED)
    return key.decode("utf-8", "surrogateescape"), found


def first_key(source: Source, size: int) -> str | None:
    """Key of the sample that a range begins with, also of one that is cut; None where there is none."""
    with contextlib.suppress(NotTar, CutShort):
        for _, regular, name, _, _ in Members(source, size):
            if regular and (parts := split_name(name)) is not None:
                return parts[0].decode("utf-8", "surrogateescape")
    return None


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


def scan(source: Source, size: int, name: str, *, caption: str | None = None, images: Sequence[str] = ()) -> Scan:
    """Read the headers of a tar, forward, and group its members into samples.

    Samples that cannot be used are counted and left out: of a key that comes again, all but the last version; those
    whose members are not adjacent; those whose names have a dot too many. A sample that is cut by the end of a damaged
    tar stays, so that whoever reads it counts it.

    Memory: about 100 bytes a sample. Keys are compared by 64-bit hashes; should two of a shard be equal (a
    chance of 3e-12 in 10,000 samples), one sample is counted as lost.

    Args:
        source: of its bytes; for remote files one with a window, see :func:`silc.data.shards.tar.windowed`.
        size: in bytes.
        name: of the shard, for messages.
        caption: where the captions are whose hashes are wanted, see :class:`CaptionKey`.
        images: extensions of images.

    Raises:
        ValueError: the file is not a tar, or has more than MAX_SAMPLES samples.
    """
    read = windowed(source, size, AHEAD)
    captions = None if caption is None else CaptionKey.of(caption)
    wanted = None if captions is None else captions.extension.encode()
    members, runs = Members(read, size), Runs(images, captions=wanted is not None)
    notes: list[str] = []
    starts, passed, cut, end = runs.starts, 0, -1, size
    try:
        for start, regular, path, offset, length in members:
            if (parts := split_name(path)) is None:
                continue
            if not regular:
                passed += 1
                continue
            key, extension = parts
            runs.add(key, extension, start)
            if len(starts) > MAX_SAMPLES:
                raise ValueError(f"shard {name} has more than {MAX_SAMPLES:,} samples; make several of it")
            if offset + length > size:
                cut = start
            if captions is not None and extension == wanted:
                runs.caption = captions.hashed(read(offset, offset + length)) if length <= MAX_CAPTION else None
        end = min(members.end, size)  # the padding may be cut
        notes += _oddities(source, size, members)
    except NotTar as error:
        raise ValueError(f"shard {name} is {error}") from None
    except CutShort as damage:
        if damage.at != cut:
            end = damage.at
        notes.append(f"is damaged ({damage} at byte {damage.at:,} of {size:,})")
    if passed:
        notes.append(f"has {plural(passed, 'link or sparse file', 'links or sparse files')}, which are passed over")
    runs.close()
    result = runs.result(end, cut=cut >= 0)
    return Scan(result.starts, size, result.extensions, result.lost, notes, result.hashes)


def _oddities(source: Source, size: int, members: Members) -> Iterator[str]:
    """What is odd about the end of a tar without damage."""
    if not members.marked:
        yield f"has no end mark: it may be cut off at byte {size:,}" if size else "is empty"
    elif any(source(members.end, min(size, members.end + TAIL))):
        rest = plural(size - members.end, "byte")
        yield f"has {rest} behind its end mark at byte {members.end:,}, which are not read: join tars by tar -A"
