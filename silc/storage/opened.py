"""The one store that readers use: local files, remote objects, and the cache of the node."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from typing import Any

from silc.storage.address import is_remote
from silc.storage.board import Board
from silc.storage.cache import NodeCache
from silc.storage.local import LocalStore
from silc.storage.remote import RemoteStore
from silc.storage.store import Limits, Range, Store


def open_store(
    *,
    patience: float = 600.0,
    board: Board | None = None,
    worker: int = 0,
    cache: NodeCache | None = None,
    limits: Limits | None = None,
) -> Store:
    """A store that reads local paths by pread and remote addresses by obstore.

    It can be pickled, and used in a process that is forked later, as long as it has not read anything remote; see
    :mod:`silc.storage.connect`. Nothing is opened before the first read.

    Args:
        patience: seconds that a file or an object may fail in a row, before StoreFailed.
        board: where retries and bytes are noted.
        worker: the slot of the board.
        cache: keeps what is read from remote addresses.
        limits: of a single try, and of what is asked at once.
    """
    return _Opened(patience, board, worker, cache, limits or Limits())


class _Opened:
    """See :func:`open_store`."""

    def __init__(
        self, patience: float, board: Board | None, worker: int, cache: NodeCache | None, limits: Limits
    ) -> None:
        self._patience, self._limits = patience, limits
        self._board, self._worker, self._cache = board, worker, cache
        self._process = os.getpid()
        self._stores: tuple[LocalStore, RemoteStore] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_stores": None}

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        """See :class:`silc.storage.Store`."""
        notes = self._board.notes(self._worker) if self._board is not None else None
        if self._stores is None or self._process != os.getpid():  # a process that was forked notes on a slot of its own
            self._process = os.getpid()
            self._stores = (
                LocalStore(patience=self._patience, limits=self._limits, notes=notes),
                RemoteStore(patience=self._patience, limits=self._limits, notes=notes),
            )
        local, remote = self._stores
        far = [is_remote(wanted.address) for wanted in ranges]
        if not any(far):
            found = local.read(ranges)
        else:
            away = list(itertools.compress(ranges, far))
            brought = self._cache.read(away, remote.read, notes) if self._cache is not None else remote.read(away)
            near = local.read([wanted for wanted, distant in zip(ranges, far, strict=True) if not distant])
            both = {True: iter(brought), False: iter(near)}
            found = [next(both[distant]) for distant in far]
        if notes is not None:
            notes.add(ranges=len(ranges))
        return found

    def close(self) -> None:
        """See :class:`silc.storage.Store`."""
        if self._stores is not None:
            for store in self._stores:
                store.close()
