"""`data.caption_key`: the extension of the member with the captions, or EXTENSION:FIELD for a field of a JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from silc.data.shards.errors import Unreadable
from silc.files import parse_json

MAX_JSON = 1 << 20  # bytes of a JSON member that are read
MOST = 1000  # captions of a sample


@dataclass(frozen=True)
class CaptionKey:
    """Where the captions of a sample are.

    Attributes:
        extension: of the member, in lower case.
        field: of the JSON object in it, in steps from the outermost: "a.b" is b in a, or the field that is named "a.b".
            A list on the way stands for each of its elements. None: the member is text.
    """

    extension: str
    field: str | None = None

    @classmethod
    def of(cls, key: str) -> CaptionKey:
        """Of a value of `data.caption_key`."""
        extension, colon, field = key.partition(":")
        return cls(extension.lower(), field if colon else None)

    def __str__(self) -> str:
        return self.extension if self.field is None else f"{self.extension}:{self.field}"

    def texts(self, data: bytes) -> list[str]:
        """The captions in a JSON member, at most MOST; not stripped.

        Raises:
            Unreadable: no JSON, of more than MAX_JSON bytes, without the field, or the field holds no text.
        """
        assert self.field is not None
        if len(data) > MAX_JSON:
            raise Unreadable(f"json of more than {MAX_JSON >> 20} MiB")
        try:
            value = parse_json(data)
        except (ValueError, UnicodeDecodeError):
            raise Unreadable("caption's json is damaged") from None
        found = list(_within(value, self.field))
        if not found:
            raise Unreadable(f"no field {self.field} in the {self.extension}")
        texts = [text for text in found if isinstance(text, str)]
        if not texts:
            raise Unreadable("empty caption" if None in found else f"field {self.field} is no text")
        return texts[:MOST]

    def hashed(self, data: bytes | None) -> bytes | None:
        """What a sample's caption hash is made of: the member, or the captions in it, a line each; None: nothing."""
        if data is None or self.field is None:
            return data
        try:
            return "\n".join(self.texts(data)).encode("utf-8", "replace")
        except Unreadable:
            return None


def _within(value: Any, field: str) -> Iterator[Any]:
    """The values of a field, lists opened."""
    if isinstance(value, list):
        for each in value[:MOST]:
            yield from _within(each, field)
    elif isinstance(value, dict) and field in value:
        yield from _opened(value[field])
    elif isinstance(value, dict):
        first, dot, rest = field.partition(".")
        while dot:  # a name may have dots itself
            if first in value:
                yield from _within(value[first], rest)
                return
            step, dot, rest = rest.partition(".")
            first = f"{first}.{step}"


def _opened(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        yield from value[:MOST]
    else:
        yield value
