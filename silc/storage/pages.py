"""One page of the node's cache as a file, with checksums that find what a disk or a full file system has damaged.

8 bytes      mark and version of the format
8 bytes      bytes of the page, u64 little-endian
8 bytes each blake2b of each block of 64 KiB, so that a sample's bytes are checked without the whole page
the page
"""

from __future__ import annotations

import errno
import os
import stat as modes
import struct
import time
from hashlib import blake2b

MARK = b"silcpg1\n"
BLOCK = 64 << 10  # bytes
DIGEST = 8  # bytes
TOUCHED = 20.0  # seconds; a page is marked as used at most this often
_HEAD = struct.Struct("<8sQ")


class Damaged(Exception):
    """A page that cannot be used."""


def size_of(length: int) -> int:
    """Bytes of the file of a page of `length` bytes."""
    return _HEAD.size + _blocks(length) * DIGEST + length


def write_page(descriptor: int, name: str, data: bytes) -> None:
    """Write a page to an open file. name: of the page; its checksums hold it, so that no page passes for another.

    Raises OSError.
    """
    digests = [_digest(name, data[at : at + BLOCK]) for at in range(0, len(data), BLOCK)]
    rest = memoryview(b"".join([_HEAD.pack(MARK, len(data)), *digests, data]))
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def read_page(path: str, name: str, parts: list[tuple[int, int]]) -> list[bytes] | None:
    """Parts [start, stop) of a page; None: it is not there. The file is marked as used.

    Raises Damaged.
    """
    try:
        # A pipe or a link in place of the page is not waited for, nor followed.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return None
        raise Damaged(os.strerror(error.errno or 0)) from None
    try:
        found = os.fstat(descriptor)
        if not modes.S_ISREG(found.st_mode):
            raise Damaged("no regular file")
        data = _read_parts(descriptor, found.st_size, name, parts)
        if time.time() - found.st_mtime > TOUCHED:
            os.utime(descriptor)
        return data
    except OSError as error:
        raise Damaged(os.strerror(error.errno or 0)) from None
    finally:
        os.close(descriptor)


def _read_parts(descriptor: int, size: int, name: str, parts: list[tuple[int, int]]) -> list[bytes]:
    head = os.pread(descriptor, _HEAD.size, 0)
    mark, length = _HEAD.unpack(head) if len(head) == _HEAD.size else (b"", 0)
    if mark != MARK or size != size_of(length):
        raise Damaged("cut, or no page")
    digests = os.pread(descriptor, _blocks(length) * DIGEST, _HEAD.size)
    found = []
    for start, stop in parts:
        if start >= min(stop, length):  # the object ends before
            found.append(b"")
            continue
        first, last = start // BLOCK, _blocks(min(stop, length))
        data = os.pread(descriptor, min(last * BLOCK, length) - first * BLOCK, size - length + first * BLOCK)
        for number in range(first, last):
            block = data[(number - first) * BLOCK : (number - first + 1) * BLOCK]
            if _digest(name, block) != digests[number * DIGEST : (number + 1) * DIGEST]:
                raise Damaged("wrong checksum")
        found.append(data[start - first * BLOCK : stop - first * BLOCK])
    return found


def _blocks(length: int) -> int:
    return -(-length // BLOCK)


def _digest(name: str, block: bytes) -> bytes:
    return blake2b(block, digest_size=DIGEST, key=name[:64].encode()).digest()
