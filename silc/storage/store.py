"""What is asked of a store, wherever its bytes are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Range(NamedTuple):
    """Bytes [start, stop) of a file or object."""

    address: str
    start: int
    stop: int


class Stat(NamedTuple):
    """Size in bytes, and what changes with the contents: the etag of an object, the mtime in ns of a local file."""

    size: int
    version: str


class Store(Protocol):
    """Reads ranges of bytes."""

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        """The bytes of each range, in order, read together; shorter only where the file or object ends there.

        Raises :class:`silc.errors.StoreFailed`.
        """

    def close(self) -> None:
        """Give back what is open; a later read opens it again."""
