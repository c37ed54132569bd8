"""Words of messages: what depends on a number, and what strangers wrote."""

from __future__ import annotations


def plural(count: int, noun: str, several: str | None = None) -> str:
    """The count and its noun: "1 image", "1,024 images", "0 classes" (`several`: where it is not noun + s)."""
    return f"{count:,} {noun if count == 1 else several or noun + 's'}"


def shown(text: str, most: int = 120) -> str:
    """A name, or words, out of a stranger's file, for a message: nothing that a terminal obeys, and not too long."""
    cut = text if len(text) <= most else f"{text[:most]}..."
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in cut)
