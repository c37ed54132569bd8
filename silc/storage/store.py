"""What is asked of a store, wherever its bytes are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Range(NamedTuple):
    """Bytes [start, stop) of a file or object."""

    address: str
    start: int
    stop: int


class Stat(NamedTuple):
    """Size in bytes, and what changes with the contents: the etag of an object, the mtime in ns of a local file.

    The version is "" where a server tells none.
    """

    size: int
    version: str


@dataclass(frozen=True)
class Limits:
    """How long one try may take, and how much is asked at once.

    Attributes:
        connect: seconds until a connection must stand.
        stall: seconds without a byte after which a try has failed.
        request: seconds after which a try has failed although bytes come.
        first_pause, longest_pause: seconds between tries; the pause doubles from one to the other, with jitter.
        absent: seconds that a local file may be absent (a network file system that is just being mounted).
        refused: tries of what is refused (401, 403, 404), which stores now and then answer without a cause.
        requests: in flight at once, from one process.
        bytes: asked for at once, from one process.
        piece: bytes; longer ranges are read in pieces of this size.
    """

    connect: float = 10.0
    stall: float = 30.0
    request: float = 180.0
    first_pause: float = 0.2
    longest_pause: float = 10.0
    absent: float = 30.0
    refused: int = 4
    requests: int = 64
    bytes: int = 64 << 20
    piece: int = 8 << 20


class Store(Protocol):
    """Reads ranges of bytes."""

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        """The bytes of each range, in order, read together; shorter only where the file or object ends there.

        Raises :class:`silc.errors.StoreFailed`.
        """

    def close(self) -> None:
        """Give back what is open; a later read opens it again."""
