"""A cache of a node's reads from remote stores, on a local disk: bounded, shared by all processes of the node.

It keeps aligned pages of objects, by the version that the manifest names: after an object has been replaced its pages
are others. One process fetches a page while the others wait for it. What goes wrong with the cache's disk costs speed,
never a sample: damaged pages are read again, and a full disk ends only the writing.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from silc.storage.board import Notes
from silc.storage.pages import Damaged, read_page, size_of, write_page
from silc.storage.room import Room, lock
from silc.storage.store import Range

log = logging.getLogger(__name__)

PAGE = 4 << 20  # bytes
LOCKS = 1024  # files; pages share them
TOGETHER = 16  # pages that are fetched, and in memory, at once
WAIT = 30.0  # seconds for a page that another process fetches, before reading without the cache
HUNG = 600.0  # seconds for which nobody is waited for again, after that
POLL = 0.01  # seconds

Fetch = Callable[[Sequence[Range]], list[bytes]]
Versions = Mapping[str, str] | Callable[[str], str | None]


class Page(NamedTuple):
    address: str
    version: str
    number: int


class Cut(NamedTuple):
    """Bytes [start, stop) of a page, which are part `part` of the range number `of`."""

    of: int
    part: int
    start: int
    stop: int


class Counts(NamedTuple):
    """Pages that this process found, fetched, and found damaged."""

    hits: int
    misses: int
    damaged: int


class NodeCache:
    """See the module.

    Args:
        folder: on a local disk; it is made. Nothing in it is removed but pages.
        limit_bytes: of all pages together; the oldest go out.
        versions: address -> version (:attr:`silc.storage.Stat.version`); an address that has none is not cached. It is
            pickled with the cache when workers are spawned.
        page: bytes of a page.
        wait: seconds for a page that another process fetches.

    Raises:
        ValueError: the folder cannot be made or written, or the limit is less than two pages.
    """

    def __init__(
        self, folder: str, limit_bytes: int, versions: Versions, *, page: int = PAGE, wait: float = WAIT
    ) -> None:
        if limit_bytes < 2 * size_of(page):
            raise ValueError(
                f"a cache of {limit_bytes} bytes is less than two pages of {page} bytes; take a larger one, or none"
            )
        self._folder, self._page, self._wait = os.path.abspath(os.path.expanduser(folder)), page, wait
        self._versions = versions if callable(versions) else versions.get
        self._room = Room(self._folder, limit_bytes)
        self._writes, self._hung = True, 0.0
        self._hits = self._misses = self._damaged = 0
        try:
            os.makedirs(os.path.join(self._folder, "locks"), mode=0o700, exist_ok=True)
            os.close(self._open_lock(0))
            self._room.settle()
        except OSError as error:
            raise ValueError(f"the cache's folder {folder} cannot be used: {error.strerror}") from None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_writes": True, "_hits": 0, "_misses": 0, "_damaged": 0}

    @property
    def counts(self) -> Counts:
        """What happened in this process so far."""
        return Counts(self._hits, self._misses, self._damaged)

    def read(self, ranges: Sequence[Range], fetch: Fetch, notes: Notes | None = None) -> list[bytes]:
        """The bytes of each range, as from `fetch`, a store's method :meth:`silc.storage.Store.read`.

        notes: where the bytes that came from the disk are noted.

        Raises what `fetch` raises.
        """
        found: list[dict[int, bytes]] = [{} for _ in ranges]
        pages: dict[Page, list[Cut]] = {}
        apart = []
        for index, wanted in enumerate(ranges):
            if version := self._versions(wanted.address):
                for cut, page in self._cuts(index, wanted, version):
                    pages.setdefault(page, []).append(cut)
            else:
                apart.append(index)
        cached = self._collect(pages, found, fetch)
        if apart:
            for index, data in zip(apart, fetch([ranges[index] for index in apart]), strict=True):
                found[index][0] = data
        if notes is not None:
            notes.add(bytes_cached=cached)
        return [b"".join(parts[number] for number in sorted(parts)) for parts in found]

    def _cuts(self, index: int, wanted: Range, version: str) -> Iterator[tuple[Cut, Page]]:
        size, at = self._page, wanted.start
        while at < wanted.stop:
            number, start = divmod(at, size)
            stop = min(size, wanted.stop - number * size)
            yield Cut(index, number, start, stop), Page(wanted.address, version, number)
            at = (number + 1) * size

    def _collect(self, pages: dict[Page, list[Cut]], found: list[dict[int, bytes]], fetch: Fetch) -> int:
        """Put the cuts of all pages into `found`. Returns the bytes that came from the disk."""
        cached, todo = 0, list(pages)
        began = time.monotonic()
        deadline = began + (self._wait if began >= self._hung else 0.0)
        while todo:
            late: list[Page] = []
            for first in range(0, len(todo), TOGETHER):
                group = todo[first : first + TOGETHER]
                there = {page: size for page in group if (size := self._take(page, pages[page], found)) is not None}
                cached += sum(there.values())
                late += self._fetch([page for page in group if page not in there], pages, found, fetch)
            todo = late
            if not todo:
                break
            if not self._writes or time.monotonic() >= deadline:
                self._pass_by(todo, pages, found, fetch)
                break
            time.sleep(POLL)
        return cached

    def _take(self, page: Page, cuts: list[Cut], found: list[dict[int, bytes]]) -> int | None:
        """Put the cuts of a page that is on the disk into `found`. Returns their bytes; None: it is not there."""
        name = self._name(page)
        path = self._path(name)
        try:
            parts = read_page(path, name, [(cut.start, cut.stop) for cut in cuts])
        except Damaged as error:
            self._damaged += 1
            log.warning("a page of the cache is damaged (%s) and is read again: %s", error, path)
            with contextlib.suppress(OSError):
                os.unlink(path)
            return None
        if parts is None:
            return None
        self._hits += 1
        for cut, data in zip(cuts, parts, strict=True):
            found[cut.of][cut.part] = data
        return sum(map(len, parts))

    def _fetch(
        self, group: list[Page], pages: dict[Page, list[Cut]], found: list[dict[int, bytes]], fetch: Fetch
    ) -> list[Page]:
        """Fetch those pages of a group that no other process fetches, and keep them. Returns the others."""
        if not group or not self._writes:
            return group
        late, mine = [], []
        with contextlib.ExitStack() as locks:
            held: dict[int, bool] = {}
            for page in group:
                number = int(self._name(page)[:8], 16) % LOCKS
                if number not in held:
                    held[number] = self._lock(number, locks)
                if not held[number]:
                    late.append(page)
                elif self._take(page, pages[page], found) is None:  # else: it has been fetched since
                    mine.append(page)
            wanted = [self._range(page, 0, self._page) for page in mine]
            for page, data in zip(mine, fetch(wanted) if wanted else [], strict=True):
                self._misses += 1
                self._keep(page, data)
                for cut in pages[page]:
                    found[cut.of][cut.part] = data[cut.start : cut.stop]
        return late

    def _pass_by(
        self, todo: list[Page], pages: dict[Page, list[Cut]], found: list[dict[int, bytes]], fetch: Fetch
    ) -> None:
        """Read what was asked for without the cache: its disk is full, or whoever fetches these pages hangs."""
        if self._writes:
            self._hung = time.monotonic() + HUNG
        cuts = [(page, cut) for page in todo for cut in pages[page]]
        data = fetch([self._range(page, cut.start, cut.stop) for page, cut in cuts])
        self._misses += len(todo)
        for (_, cut), part in zip(cuts, data, strict=True):
            found[cut.of][cut.part] = part

    def _keep(self, page: Page, data: bytes) -> None:
        """Write a page to the disk, if that can be done."""
        name = self._name(page)
        path = self._path(name)
        draft = f"{path.removesuffix('.page')}.{secrets.token_hex(8)}.part"
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            descriptor = self._room.draft(draft, size_of(len(data)))
            if descriptor is None:
                return
            try:
                write_page(descriptor, name, data)
            finally:
                os.close(descriptor)
            self._room.publish(draft, path)
        except FileNotFoundError:  # somebody clears the folder
            return
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(draft)
            self._end(error)

    def _lock(self, number: int, locks: contextlib.ExitStack) -> bool:
        """Take one of the locks until the stack ends; False: another has it."""
        try:
            descriptor = self._open_lock(number)
            locks.callback(os.close, descriptor)
            return lock(descriptor, 0.0)
        except OSError as error:
            self._end(error)
            return False

    def _open_lock(self, number: int) -> int:
        path = os.path.join(self._folder, "locks", f"{number:03x}")
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def _end(self, error: OSError) -> None:
        if self._writes:
            log.warning("nothing more is written to the cache in %s: %s", self._folder, error.strerror)
        self._writes = False

    def _range(self, page: Page, start: int, stop: int) -> Range:
        first = page.number * self._page
        return Range(page.address, first + start, first + stop)

    def _name(self, page: Page) -> str:
        key = "\0".join([page.address, page.version, str(self._page), str(page.number)])
        return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, name[:2], f"{name}.page")
