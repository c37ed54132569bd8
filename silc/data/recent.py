"""Caches that stay small, and how much of a text is read: what a caption may cost, whatever it holds."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

LONGEST_TEXT = 65536  # characters of a text that are read, at most
PER_TOKEN, LEAST = 64, 4096  # characters that are read for each token of the context, and at least
ENTRY = 100  # bytes of a dictionary's entry, about


class Bounded(dict[str, Any]):
    """A cache that starts anew when it is full, with `kept` in it. What would take a tenth of it is not kept.

    Args:
        entries: at most so many.
        size: bytes, about, at most.
        kept: what stays in it.

    Attributes:
        held: bytes, about.
    """

    def __init__(self, entries: int, size: int, kept: Mapping[str, Any] | None = None) -> None:
        super().__init__(kept or {})
        self._entries, self._size, self._kept = entries, size, dict(kept or {})
        self.held = 0

    def __reduce__(self) -> tuple:
        return Bounded, (self._entries, self._size, self._kept)  # a process begins with an empty cache

    def __setitem__(self, key: str, value: Any) -> None:
        size = sys.getsizeof(key) + sys.getsizeof(value) + ENTRY
        if size > self._size // 10:
            return
        if len(self) >= self._entries or self.held + size > self._size:
            self.clear()
            self.update(self._kept)
            self.held = 0
        self.held += size
        super().__setitem__(key, value)


def longest_text(context_length: int) -> int:
    """Characters of a text that are read for so many tokens."""
    return min(LONGEST_TEXT, max(LEAST, PER_TOKEN * context_length))


def beginning(text: str, longest: int) -> str:
    """What is read of a text: all, or `longest` characters from the first that is no white space."""
    return text if len(text) <= longest else text.lstrip()[:longest]


def goes_on(text: str, longest: int) -> bool:
    """Whether there is more to a text than its :func:`beginning`."""
    return len(text) > longest and len(text.strip()) > longest
