"""The fields of JSON members: which there are, and which of them hold text that could be captions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from silc.data.shards.caption_key import MAX_JSON
from silc.data.shards.errors import shorten
from silc.files import parse_json

KINDS = 256  # fields told apart
DEEP = 2  # objects within objects that are opened
WIDE = 128  # fields of an object that are looked at
LONGEST = 80  # characters of a name, and of an example


class Fields:
    """Collects the fields of JSON objects.

    Attributes:
        objects: members that hold one.
        damaged: members that do not.
        rest: fields that were not told apart, being too many.
    """

    def __init__(self) -> None:
        self.objects = self.damaged = self.rest = 0
        self._fields: dict[str, dict[str, Any]] = {}

    def add(self, data: bytes) -> None:
        """Look at a member."""
        try:
            value = parse_json(data) if len(data) <= MAX_JSON else None
        except (ValueError, UnicodeDecodeError):
            value = None
        if not isinstance(value, dict):
            self.damaged += 1
            return
        self.objects += 1
        for name, each in _walk(value, "", DEEP):
            field = self._fields.get(name)
            if field is None:
                if len(self._fields) == KINDS:
                    self.rest += 1
                    continue
                field = self._fields[name] = {"field": name, "samples": 0, "texts": 0, "example": ""}
            field["samples"] += 1
            text = _text(each)
            field["texts"] += text is not None
            if not field["example"]:
                field["example"] = short(text if text is not None else repr(each)[: 4 * LONGEST])

    def to_list(self) -> list[dict[str, Any]]:
        """Of each field its name as data.caption_key takes it, how many samples have it, in how many it is text or a
        list of texts, and an example; the most frequent first."""
        return sorted(self._fields.values(), key=lambda field: (-field["samples"], field["field"]))


def short(text: str) -> str:
    """On one line, of at most LONGEST characters."""
    line = shorten(" ".join(text[: 4 * LONGEST].split()))
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def _walk(value: dict[str, Any], prefix: str, deep: int) -> Iterator[tuple[str, Any]]:
    for number, (name, each) in enumerate(value.items()):
        if number == WIDE:
            return
        path = prefix + name[:LONGEST]
        if isinstance(each, dict) and deep > 1:
            yield from _walk(each, path + ".", deep - 1)
        else:
            yield path, each


def _text(value: Any) -> str | None:
    """The text that a field holds, or the first of a list of texts; None where it holds none."""
    if isinstance(value, list) and value:
        value = value[0]
    return value if isinstance(value, str) and value.strip() else None
