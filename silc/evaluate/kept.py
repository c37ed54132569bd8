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

    def small(self, key: Hashable, make: Callable[[], T]) -> T:
        """What was kept under the key, or else made now and kept; whether it is there depends on no size.

        For what all ranks make together: they must all find it, or none.
        """
        if key not in self._values:
            self._values[key] = make()
        value: T = self._values[key]
        return value

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
