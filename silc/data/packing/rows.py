"""What a source lists: an image and its captions a row, or why a row cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from silc.data.shards import Unreadable
from silc.data.shards.caption_key import MOST

MISSING = "image file missing"
IRREGULAR = "not a regular file"
OUTSIDE = "path leads out of the root"
ADDRESS = "a web address, not a file"
NO_PATH = "no image named"
NO_CAPTION = "no caption beside"
NOT_TEXT, JSON = "caption is not text", "caption is JSON"
UNREADABLE_FOLDER = "unreadable folder"
LINKED = "link to a folder that is visited anyway"


class Row(NamedTuple):
    """An image and its captions.

    Attributes:
        name: tells the row apart, in messages and in the `json` member: a path in the source, or its file and number.
        image: path of a file, relative to the root, or the bytes of one.
        captions: None: they are in the file `beside`.
        beside: path relative to the root.
        label: number of the class; None: there are no classes.
    """

    name: str
    image: str | bytes
    captions: list[str] | None = None
    beside: str | None = None
    label: int | None = None


class Skip(NamedTuple):
    """A row that cannot be used. reason: one of a few, so that reasons can be counted."""

    name: str
    reason: str


class Listing(Protocol):
    """A source as it was found.

    Attributes:
        title: what it is, for messages.
        notes: sentences on what was found in it, and chosen.
        root: absolute folder that paths are relative to.
        classes: names of the classes; empty: there are none.
    """

    @property
    def title(self) -> str: ...

    @property
    def notes(self) -> list[str]: ...

    @property
    def root(self) -> str: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    def rows(self) -> Iterator[Row | Skip]:
        """All rows in the source's own order. Raises ValueError where it cannot be read on."""
        ...


@runtime_checkable
class Rows(Protocol):
    """Rows by number, in any process: it can be pickled, and it holds no row.

    Attributes:
        digest: hash of what the rows are.
    """

    @property
    def digest(self) -> str: ...

    def __len__(self) -> int: ...

    def blocks(self) -> np.ndarray | None:
        """int64 [n + 1]: where the blocks begin that are read as a whole, and the end; None: each row by itself."""
        ...

    def read(self, numbers: np.ndarray) -> Iterator[Row | Skip]:
        """The rows of these numbers, in this order. Raises OSError."""
        ...


def grouped(rows: Iterator[Row | Skip]) -> Iterator[Row | Skip]:
    """Rows of one image file that follow one another become one row with several captions, as many as are read."""
    held: Row | None = None
    for row in rows:
        if isinstance(row, Row) and held is not None and row.image == held.image:
            captions = [*(held.captions or ()), *(row.captions or ())]
            if len(captions) <= MOST:
                held = held._replace(captions=captions)
                continue
        if held is not None:
            yield held
        held = row if isinstance(row, Row) else None
        if isinstance(row, Skip):
            yield row
    if held is not None:
        yield held


def as_captions(value: object) -> list[str]:
    """The captions in a value of a table: a text, or the texts in a list; none where it is empty.

    Raises Unreadable for anything else, and for a list of other things than texts and nulls.
    """
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        texts = [text for text in value if isinstance(text, str)]
        if texts or not value or None in value:  # as a caption key reads a list
            return texts
    raise Unreadable(NOT_TEXT)
