"""What can be wrong with a shard or a sample, and how much of a long list a message shows."""

from __future__ import annotations

from collections.abc import Sequence

SHOWN, LONGEST = 8, 200  # items in a message, characters of each


class Unreadable(Exception):
    """A sample that cannot be used. The text is the reason, one of a few, so that reasons can be counted."""


class CutShort(Exception):
    """A tar ends, or stops making sense, before its end mark.

    Attributes:
        at: offset of the first byte that cannot be used.
    """

    def __init__(self, at: int, why: str) -> None:
        super().__init__(why)
        self.at = at


def few(items: Sequence[object]) -> str:
    """The first items, each shortened, and how many more there are."""
    shown = ", ".join(shorten(str(item)) for item in items[:SHOWN])
    more = len(items) - SHOWN
    return f"{shown} and {more:,} more" if more > 0 else shown


def shorten(text: str) -> str:
    """Text for a message, the middle left out where it is long; unprintable characters are escaped."""
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]}...{text[-LONGEST // 2 :]}"
