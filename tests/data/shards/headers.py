"""Tar headers made by hand, with checksums that hold whatever the fields say."""

from __future__ import annotations

RECORD = 512


def sum_up(record: bytes, style: bytes = b"%06o\0 ") -> bytes:
    """The header with the checksum of its other bytes."""
    blank = record[:148] + b" " * 8 + record[156:]
    return record[:148] + (style % sum(blank)).ljust(8, b"\0") + record[156:]


def header(
    name: bytes, size: int | bytes = 0, kind: bytes = b"0", magic: bytes = b"ustar\x0000", **fields: bytes
) -> bytes:
    """fields: at, e.g. at_345=b"prefix"."""
    record = bytearray(RECORD)
    record[: len(name)] = name
    record[100:107] = b"0000644"
    record[124:136] = size if isinstance(size, bytes) else b"%011o\0" % size
    record[156:157] = kind
    record[257 : 257 + len(magic)] = magic
    for place, value in fields.items():
        at = int(place.removeprefix("at_"))
        record[at : at + len(value)] = value
    return sum_up(bytes(record))


def padded(payload: bytes) -> bytes:
    return payload + bytes(-len(payload) % RECORD)


def member(name: bytes, payload: bytes, kind: bytes = b"0", **fields: bytes) -> bytes:
    return header(name, len(payload), kind, **fields) + padded(payload)


def pax(*records: tuple[bytes, bytes], kind: bytes = b"x") -> bytes:
    """A pax header."""
    return member(b"PaxHeaders/x", b"".join(record(*each) for each in records), kind)


def record(key: bytes, value: bytes) -> bytes:
    """length key=value, the length counting its own digits."""
    rest = b" " + key + b"=" + value + b"\n"
    digits = 1
    while len(str(len(rest) + digits)) > digits:
        digits += 1
    return b"%d" % (len(rest) + digits) + rest


END = bytes(2 * RECORD)
