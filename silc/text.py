"""Words of messages that depend on a number."""

from __future__ import annotations


def plural(count: int, noun: str, several: str | None = None) -> str:
    """The count and its noun: "1 image", "1,024 images", "0 classes" (`several`: where it is not noun + s)."""
    return f"{count:,} {noun if count == 1 else several or noun + 's'}"
