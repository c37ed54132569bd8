"""What the tasks of one evaluation share, so that each image is decoded and each set of features computed once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")

MOST = 256 << 20  # bytes of images and masks; beyond, they are read again


class Kept:
    """Values by key. Safe to use from several threads."""

    def __init__(self, most: int = MOST) -> None:
        self._most, self._held, self._lock = most, 0, threading.Lock()
        self._values: dict[Hashable, Any] = {}
        self._small: dict[tuple[Hashable, ...], Any] = {}

    def small(self, key: tuple[Hashable, ...], make: Callable[[], T]) -> T:
        """What was kept under the key, or else made now and kept until it is forgotten; that depends on no size.

        For what all ranks make together: they must all find it, or none. Where a task failed, `make` may have returned
        on some ranks alone: forget all then.
        """
        if key not in self._small:
            self._small[key] = make()
        value: T = self._small[key]
        return value

    def forget(self, kind: str | None = None) -> None:
        """Keep no longer what `small` kept: all of it, or that under keys that begin with `kind`."""
        self._small = {key: value for key, value in self._small.items() if kind is not None and key[0] != kind}

    def large(self, key: Hashable, make: Callable[[], T], size: Callable[[T], int]) -> T:
        """The same, kept only while all of these are `most` bytes together. The value must not be changed."""
        if key in self._values:
            return self._values[key]  # type: ignore[no-any-return]
        value = make()
        with self._lock:
            if self._held + size(value) <= self._most and key not in self._values:
                self._held += size(value)
                self._values[key] = value
        return value
