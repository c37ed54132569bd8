"""Objects of remote stores, by ranges that are asked for together."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, TypeVar

from silc.errors import StoreFailed
from silc.storage.address import shorten, split_remote
from silc.storage.board import Notes
from silc.storage.connect import Connections, obstore
from silc.storage.retry import Lasting, Nothing, Trouble, persist
from silc.storage.store import Limits, Range, Stat
from silc.storage.troubles import past_the_end, trouble_of

MAX_VERSION = 200  # characters of an etag
T = TypeVar("T")


class RemoteStore:
    """Reads ranges of objects; see :mod:`silc.storage.connect` on processes that fork.

    Each request in flight has a thread: that takes 0.15 ms of processor a range, less than obstore's asyncio.

    Args:
        patience: seconds that an object may fail in a row.
        limits: see there.
        notes: where retries and bytes are noted; None: a warning is logged.
    """

    def __init__(self, *, patience: float = 600.0, limits: Limits | None = None, notes: Notes | None = None) -> None:
        self._patience, self._limits, self._notes = patience, _within(patience, limits or Limits()), notes
        self._reset()

    def _reset(self) -> None:
        self._process = os.getpid()
        self._connections = Connections(self._limits)
        self._threads = ThreadPoolExecutor(self._limits.requests, "silc-read")  # starts them when they are needed
        self._asked = _Budget(self._limits.bytes)

    def __getstate__(self) -> dict[str, Any]:
        return {"_patience": self._patience, "_limits": self._limits, "_notes": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        """See :class:`silc.storage.Store`. Raises ValueError for an address or settings that cannot be right."""
        if self._process != os.getpid():
            self._reset()
        for address in {wanted.address for wanted in ranges}:
            self._connections.to(split_remote(address))  # wrong settings are found here, not by each thread
        halt = threading.Event()
        pieces = [_pieces(wanted, self._limits.piece) for wanted in ranges]
        tasks: list[Future[bytes]] = []
        try:
            for piece in itertools.chain(*pieces):
                tasks.append(self._threads.submit(self._read, piece, halt))
            for task in wait(tasks, return_when=FIRST_EXCEPTION).done:
                task.result()
            read = iter(tasks)
            found = [_joined(group, [next(read).result() for _ in group]) for group in pieces]
        finally:
            halt.set()
            for task in tasks:
                task.cancel()
        if self._notes is not None:
            self._notes.add(bytes_read=sum(map(len, found)))
        return found

    def stat(self, address: str) -> Stat | None:
        """Size and version of an object; None: there is none. Raises StoreFailed, ValueError."""

        def ask(store: Any, path: str) -> Stat | None:
            try:
                return _head(store, path)
            except Nothing:  # a store now and then says so of what it has
                pass
            try:
                return _head(store, path)
            except Nothing:
                return None

        return self.call(address, ask, "looked at")

    def call(self, address: str, ask: Callable[[Any, str], T], verb: str) -> T:
        """What `ask(store, path)` returns, tried while the patience lasts.

        Args:
            ask: gets obstore's store and the object's path in it; raises errors of obstore, or Trouble.
            verb: of the message: "could not be" this.

        Raises StoreFailed, ValueError.
        """
        if self._process != os.getpid():
            self._reset()
        place = split_remote(address)
        attempt = functools.partial(_translated, functools.partial(ask, self._connections.to(place), place.path))
        return persist(attempt, address, patience=self._patience, limits=self._limits, notes=self._notes, verb=verb)

    def close(self) -> None:
        """See :class:`silc.storage.Store`."""
        if self._process == os.getpid():
            self._threads.shutdown(wait=False, cancel_futures=True)
        self._reset()

    def _read(self, piece: Range, halt: threading.Event) -> bytes:
        """A piece of a range, in a thread of its own."""
        place = split_remote(piece.address)
        ask = functools.partial(self._try, self._connections.to(place), place.path, piece)
        return persist(ask, piece.address, patience=self._patience, limits=self._limits, notes=self._notes, halt=halt)

    def _try(self, store: Any, path: str, piece: Range) -> bytes:
        """One request for a piece. Raises Trouble."""
        length = piece.stop - piece.start
        if length <= 0:
            return b""
        with self._asked.holding(length):
            data = _translated(lambda: _get(store, path, piece))
        if len(data) < length:
            size = _head(store, path).size
            if size > piece.start + len(data):
                raise Trouble(f"the answer was cut short: {len(data)} of {min(length, size - piece.start)} bytes")
        return data


def _within(patience: float, limits: Limits) -> Limits:
    """Limits of a try that do not go beyond the patience, so that it holds of a store that does not answer."""
    longest = max(patience, 1.0)
    return dataclasses.replace(
        limits,
        connect=min(limits.connect, longest),
        stall=min(limits.stall, longest),
        request=min(limits.request, longest),
    )


def _translated(ask: Callable[[], T]) -> T:
    """What `ask` returns; an error of obstore becomes a Trouble, which does not refer to it."""
    try:
        return ask()
    except Trouble:
        raise
    except Exception as error:
        trouble = trouble_of(error)
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of Rust, by which obstore says that it found a bug in itself
            raise
        trouble = Trouble("obstore gave up", "check the settings of the store", Lasting.REFUSED)
    raise trouble


def _get(store: Any, path: str, piece: Range) -> bytes:
    """The bytes that a store answers with; of one that sends more than asked for, little more is taken."""
    length = piece.stop - piece.start
    chunks, size = [], 0
    try:
        answer = obstore().get(store, path, options={"range": (piece.start, piece.stop)})
    except Exception as error:
        if past_the_end(error):
            return b""
        raise
    for chunk in answer.stream(min_chunk_size=length):
        chunks.append(bytes(chunk))
        size += len(chunk)
        if size > length:
            raise Trouble("the server sent more bytes than were asked for")
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _head(store: Any, path: str) -> Stat:
    """Size and version of an object. Raises Trouble, Nothing where there is none."""
    found = _translated(lambda: obstore().head(store, path))
    etag = (found["e_tag"] or "").strip('"')
    if not etag and found["last_modified"].timestamp() > 0:  # 0: the server tells nothing
        etag = found["last_modified"].isoformat()
    if len(etag) > MAX_VERSION or not etag.isprintable():
        etag = hashlib.sha256(etag.encode("utf-8", "replace")).hexdigest()
    return Stat(found["size"], etag)


def _pieces(wanted: Range, size: int) -> list[Range]:
    starts = range(wanted.start, wanted.stop, size)
    return [Range(wanted.address, start, min(start + size, wanted.stop)) for start in starts]


def _joined(pieces: Sequence[Range], parts: Sequence[bytes]) -> bytes:
    """A range from its pieces: after one that is short the object has ended."""
    if len(parts) == 1:
        return parts[0]
    for piece, part, after in zip(pieces, parts, parts[1:], strict=False):
        if after and len(part) < piece.stop - piece.start:
            raise StoreFailed(f"{shorten(piece.address)} changed while it was read; see who writes to it")
    return b"".join(parts)


class _Budget:
    """Bytes that may be asked for at once; what is larger goes alone."""

    def __init__(self, size: int) -> None:
        self._size, self._held = size, 0
        self._changed = threading.Condition()

    @contextmanager
    def holding(self, count: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + count <= self._size)
            self._held += count
        try:
            yield
        finally:
            with self._changed:
                self._held -= count
                self._changed.notify_all()
