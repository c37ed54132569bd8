"""Captions: from a member of a sample to one or several texts, of which one is used at a time."""

from __future__ import annotations

import codecs
import unicodedata
from bisect import bisect_right

from silc.data.shards import Unreadable
from silc.data.shards.caption_key import MAX_JSON, MOST, CaptionKey
from silc.files import parse_json

MAX_CAPTION = 1 << 18  # bytes: four for each character that a tokenizer reads at most
_BYTE_ORDER_MARK = "\ufeff"
# Controls, formats (zero-width ones, directions, tags), separators, halves of surrogate pairs, unassigned characters.
_BLANK_CATEGORIES = frozenset({"Cc", "Cf", "Cn", "Cs", "Zl", "Zp", "Zs"})
# Of other categories: Unicode's default-ignorable characters (joiners, fillers, variation selectors), the blank Braille
# pattern, and what stands for an object in a text. First of a range, and the one behind its last.
_BLANKS = (
    (0x034F, 0x0350),
    (0x115F, 0x1161),
    (0x17B4, 0x17B6),
    (0x180B, 0x1810),
    (0x2800, 0x2801),
    (0x3164, 0x3165),
    (0xFE00, 0xFE10),
    (0xFFA0, 0xFFA1),
    (0xFFFC, 0xFFFD),
    (0xE0000, 0xE1000),
)
_FIRSTS = [first for first, _ in _BLANKS]


def visible(text: str) -> bool:
    """Whether a text has a character that can be seen: a caption without one says nothing of its image."""
    return any(not _blank(character) for character in text)


def _blank(character: str) -> bool:
    if unicodedata.category(character) in _BLANK_CATEGORIES:
        return True
    at = bisect_right(_FIRSTS, ord(character)) - 1
    return at >= 0 and ord(character) < _BLANKS[at][1]


def lines_of(text: str) -> list[str]:
    """The lines of a text, stripped. Lines end at line feeds alone (a carriage return before them is stripped):
    U+2028, U+0085, form feeds and the like stand in captions and class names, and end nothing.
    """
    return [line.strip() for line in text.split("\n")]


def looks_like_json(text: str) -> bool:
    """Whether a text is a JSON object or list, of at most MAX_JSON characters: no caption, but what holds one."""
    text = text.strip().removeprefix(_BYTE_ORDER_MARK).strip()
    if len(text) > MAX_JSON or text[:1] + text[-1:] not in ("{}", "[]"):
        return False
    try:
        value = parse_json(text)
    except ValueError:
        return False
    return isinstance(value, dict) or any(isinstance(each, (str, dict)) for each in value)


class CaptionReader:
    """Reads the captions of a sample.

    Args:
        key: `data.caption_key`, see :class:`CaptionKey`.
        lines: whether each line of a text member is a caption of its own, as CLIP_benchmark's data sets have them. In
            JSON several captions are a list, and a line feed is a part of its caption.

    Attributes:
        extension: of the member with the captions, in lower case.
    """

    def __init__(self, key: str, *, lines: bool) -> None:
        self.key = CaptionKey.of(key)
        self.extension = self.key.extension
        self._lines = lines

    def read(self, data: bytes | None) -> list[str]:
        """The captions of a sample: stripped, each with a visible character, at least one and at most MOST.

        Of a text member the first MAX_CAPTION bytes are read: no tokenizer reads on.

        Args:
            data: of the member; None: there is none.

        Raises:
            Unreadable: no data, not utf-8, no JSON with that field, or no caption with a visible character.
        """
        if data is None:
            raise Unreadable("no caption")
        if self.key.field is not None:
            texts = [text.strip() for text in self.key.texts(data)]
        else:
            text = _decoded(data)
            texts = lines_of(text) if self._lines else [text]
        captions = [text for text in texts if visible(text)]
        if not captions:
            raise Unreadable("empty caption")
        return captions[:MOST]


def _decoded(data: bytes) -> str:
    """A text, stripped, without the byte order mark that some editors begin a file with."""
    try:
        if len(data) > MAX_CAPTION:
            beginning = data.lstrip()[:MAX_CAPTION]
            text = codecs.getincrementaldecoder("utf-8")().decode(beginning)  # also of half a character
        else:
            text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise Unreadable("caption is not utf-8") from None
    return text.strip().removeprefix(_BYTE_ORDER_MARK).strip()
