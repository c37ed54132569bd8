"""The headers of a tar: ustar, GNU and pax, read forward through any source of bytes.

Only what training needs is read: names, offsets and sizes. (Python's tarfile takes 3 to 11 times as long.) Archives
come from strangers, so every number is checked before it is used, and each step reads a bounded number of bytes and
moves forward by at least one record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple
from zlib import adler32

from silc.data.shards.errors import CutShort
from silc.text import plural

Source = Callable[[int, int], bytes]
"""(start, stop) -> bytes [start, stop) of a tar; fewer only where it ends before `stop`."""

RECORD = 512  # a tar consists of records of this many bytes
MAX_DESCRIPTION = 64 << 10  # bytes of a long name or a pax header; longer ones are taken for damage
MAX_DESCRIPTIONS = 8  # of one member

REGULAR = frozenset(b"0\x007")
_EMPTY = frozenset(b"123456")  # links, devices, folders, pipes: no payload, whatever their size field holds
_LONG_NAME, _SPARSE = ord("L"), ord("S")
_PAX = frozenset(b"xX")  # X is Solaris' own letter
_DESCRIPTIONS = frozenset(b"LKxXg")  # the payload describes the next member (g: all that follow)
_SPARSE_PAX = b"GNU.sparse."
_BLANKS = 8 * ord(" ")  # the checksum counts its own field as blanks


Member = tuple[int, bool, bytes, int, int]
"""One entry of a tar (a plain tuple: many are made).

- offset of its first header, those with a long name or pax records included;
- whether it is a regular file with its bytes as they are: no link, folder or sparse file;
- its name, as stored;
- offset and size of the payload, which may reach beyond the end of a damaged tar.
"""


class Pax(NamedTuple):
    """What a pax header says of the member behind it; None or empty: nothing."""

    path: bytes = b""
    size: int | None = None
    sparse: bool = False


_NOTHING = Pax()


class NotTar(ValueError):
    """The bytes do not begin with a tar header."""


class Members:
    """Iterates over the members of a tar once.

    Raises, while iterating:
        NotTar: the first record is no header.
        CutShort: damage. A member whose payload is cut is yielded before.

    Attributes:
        end: offset behind the last whole member; known when the iteration has ended without an error.
        marked: whether an end mark was there.
    """

    def __init__(self, source: Source, size: int) -> None:
        self._source, self._size = source, size
        self.end, self.marked = 0, False

    def __iter__(self) -> Iterator[Member]:
        source, size, start = self._source, self._size, 0
        while start < size:
            header, at = source(start, start + RECORD), start
            name, pax = b"", _NOTHING
            if not is_header(header) and self._ends(header, start, at):
                return
            kind = header[156]
            if kind in _DESCRIPTIONS:
                header, at, name, pax = self._described(header, start)
                if not header:
                    return
                kind = header[156]
            offset, regular, length = at + RECORD, kind in REGULAR, 0
            name = pax.path or name or _name(header)
            if kind not in _EMPTY and (kind or name[-1:] != b"/"):  # older tars have folders of kind 0
                length = number(header[124:136], start) if pax.size is None else pax.size
            if kind == _SPARSE:
                offset = _behind_sparse_maps(source, header, offset, start)
            yield start, regular and not pax.sparse, name, offset, length
            if offset + length > size:
                raise CutShort(start, f"cut inside a member of {plural(length, 'byte')}", ended=True)
            start = offset + -(-length // RECORD) * RECORD
        self.end = start

    def _described(self, header: bytes, start: int) -> tuple[bytes, int, bytes, Pax]:
        """Headers that describe a member -> the member's own header and its offset, its long name and pax records.

        The header is empty where the end mark stands in its place.
        """
        at, name, pax = start, b"", _NOTHING
        for _ in range(MAX_DESCRIPTIONS):
            kind, length = header[156], number(header[124:136], start)
            if length > MAX_DESCRIPTION:
                raise CutShort(start, f"a name or pax header of {plural(length, 'byte')}")
            padded = -(-length // RECORD) * RECORD
            block = self._source(at + RECORD, at + 2 * RECORD + padded)  # with the header behind it
            if len(block) < length:
                raise CutShort(start, "cut inside a name or pax header", ended=True)
            if kind == _LONG_NAME:
                name = block[:length].partition(b"\0")[0]
            elif kind in _PAX:
                pax = _pax(block[:length], start)
            at += RECORD + padded
            header = block[padded:]
            if not is_header(header) and self._ends(header, start, at):
                return b"", at, name, pax
            if header[156] not in _DESCRIPTIONS:
                return header, at, name, pax
        raise CutShort(start, "too many headers before a member")

    def _ends(self, header: bytes, start: int, at: int) -> bool:
        """Whether a record that is no header is the end mark. Raises NotTar and CutShort if it is damage."""
        if len(header) < RECORD:
            raise CutShort(start, "cut inside a header", ended=True)
        if not any(header):
            self.end, self.marked = start, True
            return True
        if at == 0 and header[257:262] != b"ustar":
            raise NotTar("not a tar file; if it is compressed, unpack it")
        raise CutShort(start, "no header")


def is_header(record: bytes) -> bool:
    """Whether a record holds the checksum of its bytes, as every header does."""
    try:
        # Six digits is what all writers write today. The low half of Adler-32 is 1 + the sum of the bytes modulo 65521.
        if adler32(record) & 0xFFFF == (int(record[148:154], 8) + sum(record[148:156]) - _BLANKS + 1) % 65521:
            return len(record) == RECORD
    except ValueError:
        pass
    return len(record) == RECORD and _adds_up(record)


def _adds_up(record: bytes) -> bool:
    """The same for other ways to write the number, and for old writers that added the bytes as signed numbers."""
    try:
        stated = number(record[148:156], 0)
    except CutShort:
        return False
    total = sum(record) - sum(record[148:156]) + _BLANKS
    above = sum(byte > 127 for byte in record) - sum(byte > 127 for byte in record[148:156])
    return stated in (total, total - 256 * above)


def number(field: bytes, at: int) -> int:
    """A number in a header: octal digits, or base 256 with the top bit set. Raises CutShort, naming the offset `at`."""
    digits = field.rstrip(b"\0 ")
    if not digits.isdigit():
        if field[0] == 0x80:  # 0xff begins a negative number
            return int.from_bytes(field[1:], "big")
        digits = field.partition(b"\0")[0].strip(b" ")
        if not digits:
            return 0
    try:
        if digits.isdigit():
            return int(digits, 8)
    except ValueError:  # 8 and 9 are digits too
        pass
    raise CutShort(at, "a bad number in a header")


def _name(header: bytes) -> bytes:
    end = header.find(b"\0", 0, 100)
    name = header[: 100 if end < 0 else end]
    # GNU headers, whose magic ends in blanks, keep times there.
    if header[345] and header[257:263] == b"ustar\0":
        return header[345:500].partition(b"\0")[0] + b"/" + name
    return name


def _pax(data: bytes, at: int) -> Pax:
    """A pax header: records of "length key=value", the length counting the whole line. Raises CutShort."""
    found, begin = _NOTHING, 0
    # Most headers have only times and owners, which are not needed.
    if b"path=" not in data and b"size=" not in data and _SPARSE_PAX not in data:
        return found
    while begin < len(data) and data[begin]:
        digits, blank, _ = data[begin : begin + 8].partition(b" ")
        if not blank or not digits.isdigit():
            raise CutShort(at, "a bad pax header")
        end = begin + int(digits)
        key, equals, value = data[begin + len(digits) + 1 : end - 1].partition(b"=")
        if not equals or data[end - 1 : end] != b"\n":
            raise CutShort(at, "a bad pax header")
        if key == b"path":
            found = found._replace(path=value)
        elif key == b"size":
            if not value.isdigit() or len(value) > 20:
                raise CutShort(at, "a bad number in a pax header")
            found = found._replace(size=int(value))
        elif key.startswith(_SPARSE_PAX):
            found = found._replace(sparse=True)
        begin = end
    return found


def _behind_sparse_maps(source: Source, header: bytes, offset: int, start: int) -> int:
    """Offset of a GNU sparse file's payload: records that continue its map stand before it."""
    more = header[482]
    while more:
        record = source(offset, offset + RECORD)
        if len(record) < RECORD:
            raise CutShort(start, "cut inside a header", ended=True)
        more, offset = record[504], offset + RECORD
    return offset


def windowed(source: Source, size: int, ahead: int) -> Source:
    """A source that reads at least `ahead` bytes at a time and serves what follows from them.

    Args:
        source: to read from.
        size: of the tar, in bytes.
        ahead: about how many bytes are held. For remote files some MiB; for local ones a page or two, so that payloads
            are passed over.
    """
    begin, end, held = 0, 0, b""

    def read(start: int, stop: int) -> bytes:
        nonlocal begin, end, held
        if start < begin or stop > end:
            begin, held = start, source(start, min(max(stop, start + ahead), size))
            end = begin + len(held)
        return held[start - begin : stop - begin]

    return read
