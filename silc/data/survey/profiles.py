"""The name of an ICC profile: read as plain bytes, so that no color engine sees what a stranger wrote."""

from __future__ import annotations

import struct

TAGS = 256  # of a profile that are looked at; profiles have ten or twenty
LONGEST = 80  # characters of a name that are kept
UNNAMED = "without a name"
# The small profiles that image services write have names of their own; all of them mean sRGB.
_SRGB = ("srgb", "iec61966-2.1", "iec61966-2-1", "iec 61966-2.1", "iec 61966-2-1", "urgb")
_SRGB_WHOLE = {"c2", "c2ci"}
_HEAD, _ENTRY = 128, 12  # bytes of a profile's header, of an entry of its table


def name_of(profile: bytes) -> str:
    """The description in a profile, of at most LONGEST printable characters; UNNAMED where there is none."""
    try:
        (count,) = struct.unpack_from(">I", profile, _HEAD)
        for number in range(min(count, TAGS)):
            tag, start, size = struct.unpack_from(">4sII", profile, _HEAD + 4 + number * _ENTRY)
            if tag == b"desc":
                return _printable(_text(profile[start : start + size])) or UNNAMED
    except struct.error:
        pass  # cut short
    return UNNAMED


def is_srgb(name: str) -> bool:
    """Whether a profile of this name means sRGB, which the trainer takes every image for."""
    small = name.casefold()
    return small in _SRGB_WHOLE or any(words in small for words in _SRGB)


def _text(tag: bytes) -> str:
    """Of a `desc` tag: ASCII with its length before it (version 2), or UTF-16 in several languages (version 4)."""
    kind, *_ = struct.unpack_from(">4s4x", tag)
    if kind == b"desc":
        (length,) = struct.unpack_from(">I", tag, 8)
        return tag[12 : 12 + min(length, 4 * LONGEST)].decode("latin-1")
    if kind == b"mluc":
        _, _, _, length, start = struct.unpack_from(">II4sII", tag, 8)
        return tag[start : start + min(length, 4 * LONGEST)].decode("utf-16-be", "ignore")
    return ""


def _printable(text: str) -> str:
    words = text.partition("\0")[0]
    return "".join(sign if sign.isprintable() else " " for sign in words).strip()[:LONGEST]
