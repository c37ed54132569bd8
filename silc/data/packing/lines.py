"""Lines of text files from anyone, none longer than a bound."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from silc.files import check_regular

MAX_LINE = 16 << 20  # characters
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


@contextmanager
def opened(path: str) -> Iterator[TextIO]:
    """A text file, UTF-8 with or without a byte order mark; ends of lines are left as they are.

    Raises ValueError for what is no regular file, for UTF-16, and inside the block for bytes that are not UTF-8.
    """
    check_regular(path)
    with open(path, "rb") as file:
        if file.read(2) in _UTF_16:
            raise ValueError(f"{path} is UTF-16; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)")
    try:
        with open(path, encoding="utf-8-sig", newline="") as text:
            yield text
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ValueError(
            f"{path} is not UTF-8 text (it has a byte {byte:#04x}); convert it, for instance from Latin-1: "
            "iconv -f LATIN1 -t UTF-8"
        ) from None


def bounded(file: TextIO, path: str) -> Iterator[str]:
    """The lines of a file opened by :func:`opened`, with their ends. Raises ValueError for one above MAX_LINE."""
    number = 0
    while line := file.readline(MAX_LINE):
        number += 1
        if len(line) == MAX_LINE and not line.endswith(("\n", "\r")):
            raise ValueError(f"{path}: line {number:,} has more than {MAX_LINE >> 20} million characters")
        yield line


def first_line(path: str) -> str:
    """Without its end; empty for an empty file. Raises as the others."""
    with opened(path) as file:
        return next(bounded(file, path), "").rstrip("\r\n")
