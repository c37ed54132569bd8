"""Manifests as files: written by `silc shards index`, read at every start. See :mod:`silc.data.shards.manifest`."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from silc.data.shards.errors import few, shorten
from silc.data.shards.manifest import Manifest, Part, Row, capped, totals
from silc.data.shards.texts import Texts
from silc.storage import check_address, is_remote
from silc.text import plural

MAGIC, FORMAT = "silc-shards", 1
LIMIT = 256 << 20  # bytes of a manifest
MAX_ROWS = 10_000_000
MAX_HEAD, MAX_DETAILS = 1 << 20, 16 << 10  # bytes of the first line, of a shard's details
MAX_NAME, MAX_VERSION = 1024, 256  # bytes
MAX_SIZE = 1 << 50  # bytes of a tar
PIECE = 1 << 20  # bytes read at a time, so that the pieces of lines do not fill the memory
COLUMNS = 5

# Anything that could break a line of a log, and parts of a path that lead elsewhere.
_CONTROL = re.compile(rb"[\x00-\x09\x0b-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80[\xa8\xa9]")
_ELSEWHERE = re.compile(rb"(?:^|/)\.{0,2}(?:/|$)|://", re.MULTILINE)
_HERE = {b"", b".", b".."}
_PLAIN = bytes(range(0x20, 0x7F)) + b"\n"
_WAY = "make the index again with `silc shards index`"


def prefix_of(address: str) -> str:
    """The address of a file's folder, with its last slash; empty for a file of the working directory."""
    return address[: address.rfind("/") + 1]


def check_name(name: str, what: str) -> None:
    """Raises ValueError for a name that a manifest cannot hold."""
    encoded = name.encode("utf-8", "surrogateescape")
    if _CONTROL.search(encoded) or b"\n" in encoded or _ELSEWHERE.search(encoded) or len(encoded) > MAX_NAME:
        raise ValueError(f"{what}: {shorten(name)!r} cannot be indexed under that name; rename the file")


def packed(rows: Sequence[Row], *, base: str | None, caption: str | None, images: Sequence[str]) -> bytes:
    """The bytes of a manifest file.

    Args:
        rows: in order, names relative to the base.
        base: absolute folder of the shards; None: the folder of the manifest.
        caption, images: see :class:`silc.data.shards.manifest.Manifest`.

    Raises ValueError for a name that cannot be written, and for more than may be read.
    """
    for row in rows:
        check_name(row.name, base or "the index")
    extensions, lost = totals(row.details for row in rows)
    body = "".join(line(row) for row in rows).encode("utf-8", "surrogateescape")
    head = {
        "shards": len(rows),
        "samples": sum(row.samples for row in rows),
        "bytes": sum(row.size for row in rows),
        "base": base,
        "caption": caption,
        "images": list(images),
        "extensions": extensions,
        "lost": lost,
        "digest": _digest(body),
    }
    data = f"{MAGIC} {FORMAT} {json.dumps(head)}\n".encode() + body
    if len(data) > LIMIT or len(rows) > MAX_ROWS:
        raise ValueError(
            f"an index of {plural(len(rows), 'shard')} takes {plural(len(data), 'byte')}; at most {MAX_ROWS:,} shards "
            f"and {LIMIT:,} bytes are read: index the folders one by one"
        )
    return data


def line(row: Row) -> str:
    """A row as a line of the file."""
    return f"{row.name}\t{row.samples}\t{row.size}\t{row.version}\t{row.details}\n"


def parsed(data: bytes, address: str) -> Manifest:
    """The manifest in the bytes of a file.

    address: of the file, whence relative names count; for messages.

    Raises ValueError for anything that is not a whole manifest, and for names that lead out of its folder.
    """
    if len(data) > LIMIT:
        raise ValueError(f"{address} has {plural(len(data), 'byte')}; at most {LIMIT:,} are read")
    begin = data.find(b"\n", 0, MAX_HEAD) + 1
    head = _head(data[: begin or MAX_HEAD], address)
    if head.digest != _digest(memoryview(data)[begin:]):
        raise ValueError(f"{address} is damaged: its rows are not those that were written; {_WAY}")
    folder = prefix_of(address)
    base = folder if head.base is None else head.base.rstrip("/") + "/"
    pieces = list(_pieces(data, begin, base, address))
    manifest = Manifest(
        Texts.joined([piece.addresses for piece in pieces]),
        np.concatenate([np.zeros(0, np.int64), *(piece.samples for piece in pieces)]),
        np.concatenate([np.zeros(0, np.int64), *(piece.sizes for piece in pieces)]),
        Texts.joined([piece.versions for piece in pieces]),
        Texts.joined([piece.details for piece in pieces]),
        (Part(0, base, folder),),
        head.caption,
        head.images,
        head.extensions,
        head.lost,
    )
    if (len(manifest), int(manifest.samples.sum())) != (head.shards, head.samples):
        raise ValueError(f"{address} is damaged: it has other numbers of shards or samples than it states; {_WAY}")
    keys = np.concatenate([np.zeros(0, np.int64), *(piece.keys for piece in pieces)])
    if len(np.unique(keys)) < len(keys) and (each := repeated(manifest.addresses)) is not None:
        raise ValueError(f"{address} is damaged: {each} stands in it twice; {_WAY}")
    return manifest


def parse_rows(data: bytes) -> list[Row]:
    """The rows of a list that is still written to: whole lines that are as :func:`line` writes them; others are left
    out."""
    rows = []
    for each in data.split(b"\n")[:-1]:
        try:
            piece = _piece(each + b"\n", b"", "")
            totals(piece.details)
        except ValueError:
            continue
        samples, size = int(piece.samples[0]), int(piece.sizes[0])
        rows.append(Row(piece.addresses[0], samples, size, piece.versions[0], piece.details[0]))
    return rows


class _Head(NamedTuple):
    shards: int
    samples: int
    base: str | None
    caption: str | None
    images: tuple[str, ...]
    extensions: dict[str, int]
    lost: dict[str, int]
    digest: str


def _head(text: bytes, address: str) -> _Head:
    magic, _, rest = text.partition(b" ")
    if magic != MAGIC.encode():
        raise ValueError(f"{address} is not a manifest of shards; {_WAY}")
    number, _, rest = rest.partition(b" ")
    if number != b"%d" % FORMAT:
        raise ValueError(
            f"{address} has format {shorten(number.decode('latin-1'))}, this version of silc reads format {FORMAT}; "
            f"{_WAY}"
        )
    try:
        return _checked_head(json.loads(rest), address)
    except (KeyError, TypeError, AttributeError, RecursionError, json.JSONDecodeError, UnicodeError) as error:
        raise ValueError(f"{address} is damaged in its first line ({shorten(repr(error))}); {_WAY}") from None


def _checked_head(head: dict[str, Any], address: str) -> _Head:
    base, caption, images, digest = head["base"], head["caption"], head["images"], head["digest"]
    words = [digest, *images, *(text for text in (base, caption) if text is not None)]
    for text in words:
        if not isinstance(text, str) or len(text) > MAX_NAME or not text.isprintable():
            raise TypeError(f"{shorten(repr(text))} where a text belongs")
    if base is not None:
        if not (base.startswith("/") or is_remote(base)):
            raise ValueError(f"{address} names its shards from {base!r}, which is no absolute address; {_WAY}")
        check_address(base, address)
    try:
        extensions, lost = totals([json.dumps({"has": head["extensions"], "lost": head["lost"]})])
    except ValueError as error:
        raise TypeError(error) from None
    counts = head["shards"], head["samples"]
    if any(isinstance(count, bool) or not isinstance(count, int) for count in counts):
        raise TypeError(f"{shorten(repr(counts))} where counts belong")
    return _Head(*counts, base, caption, tuple(images), capped(extensions), lost, digest)


class _Piece(NamedTuple):
    """Some rows; `keys` are hashes of their names."""

    addresses: Texts
    samples: np.ndarray
    sizes: np.ndarray
    versions: Texts
    details: Texts
    keys: np.ndarray


def _pieces(data: bytes, begin: int, base: str, address: str) -> Iterator[_Piece]:
    prefix = base.encode("utf-8", "surrogateescape")
    rows, total = 0, 0
    while begin < len(data):
        end = data.find(b"\n", begin + PIECE) + 1 or len(data)
        piece = _piece(data[begin:end], prefix, f"{address} is damaged: ")
        rows, total = rows + len(piece.samples), total + int(piece.sizes.sum())
        if rows > MAX_ROWS or total >= 2**62:
            raise ValueError(f"{address} lists more than {MAX_ROWS:,} shards or 2^62 bytes")
        yield piece
        begin = end


def _piece(data: bytes, prefix: bytes, what: str) -> _Piece:
    """Rows from whole lines. Raises ValueError."""
    if not data.endswith(b"\n"):
        raise ValueError(f"{what}the last line is cut; {_WAY}")
    # All lines at once, three times as fast as one by one: every line break begins a name if there are as many columns
    # as there should be.
    fields = data[:-1].replace(b"\n", b"\t\n").split(b"\t")
    names = b"".join(fields[::COLUMNS]).split(b"\n")
    if len(fields) != COLUMNS * data.count(b"\n") or len(names) * COLUMNS != len(fields):
        raise ValueError(f"{what}a line has not {COLUMNS} columns; {_WAY}")
    samples, sizes, versions, details = (fields[column::COLUMNS] for column in range(1, COLUMNS))
    _check_texts(names, versions, details, what)
    counts, lengths = _numbers(samples, what), _numbers(sizes, what)
    # A sample takes at least a header.
    if (lengths > MAX_SIZE).any() or (counts * 512 > lengths).any():
        raise ValueError(f"{what}a number is out of range; {_WAY}")
    stops = np.fromiter(accumulate(len(name) + len(prefix) for name in names), np.int64, len(names))
    keys = np.fromiter(map(hash, names), np.int64, len(names))
    return _Piece(Texts(prefix + prefix.join(names), stops), counts, lengths, _texts(versions), _texts(details), keys)


def _texts(column: Sequence[bytes]) -> Texts:
    return Texts(b"".join(column), np.fromiter(accumulate(map(len, column)), np.int64, len(column)))


def _numbers(column: Sequence[bytes], what: str) -> np.ndarray:
    """int64 of decimal digits, at most 17 of them, so that 512 times the number stays below 2^63 too."""
    if not b"".join(column).isdigit() or not all(column) or max(map(len, column)) > 16:
        raise ValueError(f"{what}a column of numbers holds something else; {_WAY}")
    return np.fromiter(map(int, column), np.int64, len(column))


def _check_texts(names: Sequence[bytes], versions: Sequence[bytes], details: Sequence[bytes], what: str) -> None:
    # Each line costs time at every start: what is plain ASCII, as nearly all is, needs no regular expression.
    together = b"\n".join(names)
    found = _CONTROL.search(together) if together.translate(None, _PLAIN) else None
    if b"/" in together or not _HERE.isdisjoint(names):
        found = found or _ELSEWHERE.search(together)
    if found:
        shown = together[max(0, found.start() - 20) : found.end() + 20].decode("utf-8", "replace")
        raise ValueError(f"{what}no name of a shard below its folder near {shorten(shown)!r}; {_WAY}")
    for column, limit in ((names, MAX_NAME), (versions, MAX_VERSION), (details, MAX_DETAILS)):
        if max(map(len, column)) > limit:
            raise ValueError(f"{what}a column is longer than {limit} bytes; {_WAY}")
    if b"".join(versions).translate(None, _PLAIN) or b"".join(details).translate(None, _PLAIN):
        raise ValueError(f"{what}a version or details hold unprintable characters; {_WAY}")


def repeated(addresses: Texts) -> str | None:
    """An address that comes twice; None where each comes once."""
    keys = np.fromiter(map(hash, addresses), np.int64, len(addresses))
    keys.sort()
    twice = set(keys[1:][keys[1:] == keys[:-1]].tolist())
    seen: set[str] = set()
    for each in addresses if twice else ():
        if hash(each) in twice:
            if each in seen:
                return each
            seen.add(each)
    return None


def _digest(body: bytes | memoryview) -> str:
    return hashlib.blake2b(body, digest_size=16).hexdigest()


def shown_lost(lost: Mapping[str, int]) -> str:
    """Lost samples by reason, for a message: "3 key comes twice, 1 dot in the name"."""
    return few([f"{count:,} {reason}" for reason, count in sorted(lost.items(), key=lambda item: -item[1])])
