"""Paths of images that a table names: below a root, and nowhere else."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from silc.data.captions import MAX_CAPTION, lines_of, looks_like_json
from silc.data.packing.rows import ADDRESS, JSON, MISSING, NO_PATH, OUTSIDE, Listing, Row, Skip
from silc.data.shards import Unreadable
from silc.data.shards.errors import shorten
from silc.files import read_text

PROBED, ENOUGH = 1000, 3  # rows looked at before work starts; fewer where so many can be used
FOLDERS = 1000  # folders that are tried for the images of a caption file
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|data:image/")


def below(path: object, root: str) -> str:
    """A path of a table, relative to the absolute folder `root`.

    A relative path counts from the root; an absolute one is allowed where it lies below the root. `..` is resolved by
    name: whoever made the folder may have links in it.

    Raises Unreadable: no path, a web address, or a path that leads out of the root.
    """
    if not isinstance(path, str) or not path.strip():
        raise Unreadable(NO_PATH)
    if _ADDRESS.match(path):
        raise Unreadable(ADDRESS)
    prefix = root.rstrip("/") + "/"
    joined = os.path.normpath(os.path.join(prefix, path.strip()))
    if "\0" in path or not joined.startswith(prefix) or joined.startswith("//"):
        raise Unreadable(OUTSIDE)
    return joined[len(prefix) :]


def check_beginning(listing: Listing) -> None:
    """Refuse a source whose first rows all fail for the same want: a wrong column or root costs no hour that way.

    Raises ValueError: no row, or none of the first PROBED can be used and names a file that is there.
    """
    good = 0
    bad: list[Skip] = []
    for row in islice(listing.rows(), PROBED):
        if isinstance(row, Row) and isinstance(row.image, str) and not os.path.lexists(f"{listing.root}/{row.image}"):
            row = Skip(row.name, MISSING)
        if isinstance(row, Row) and (texts := _texts(row, listing.root)) and all(map(looks_like_json, texts)):
            row = Skip(f"{row.name}: {texts[0]!r:.80}", JSON)
        if isinstance(row, Skip):
            bad.append(row)
            continue
        good += 1
        if good == ENOUGH:
            break
    if good:
        return
    if not bad:
        raise ValueError(f"there is no row in it ({listing.title})")
    reasons = [skip.reason for skip in bad]
    reason = max(reasons, key=reasons.count)
    example = next(skip.name for skip in bad if skip.reason == reason)
    raise ValueError(
        f"none of the first {len(bad):,} rows can be used ({listing.title}): {reason}, as in {shorten(example)}"
        f"{_ADVICE.get(reason, '').format(root=listing.root)}"
    )


def _texts(row: Row, root: str) -> list[str]:
    """The captions of a row, not tidied; none where they are in a field of JSON, or cannot be read."""
    if row.captions is not None or row.beside is None or row.beside.lower().endswith(".json"):
        return row.captions or []
    with suppress(OSError, ValueError):
        return [line for line in lines_of(read_text(f"{root}/{row.beside}", MAX_CAPTION)) if line]
    return []


_ADVICE = {
    MISSING: "; paths count from {root}: give their folder with --root, or another column with --image-column",
    OUTSIDE: "; paths must lie below {root}: name a folder that holds the images with --root (--root / allows any)",
    ADDRESS: "; download the images first, for instance with img2dataset, which writes shards itself",
    JSON: "; name a column of plain text with --caption-column, files of a folder with --captions json:FIELD, or take "
    "the text out first",
    NO_PATH: "; name the column with --image-column",
}


def find_root(names: Sequence[str], near: Path, *, higher: bool) -> str:
    """The folder that most of some images lie in: that of their table, or a folder in it.

    Args:
        names: some of the images, as the table names them.
        near: the table's folder.
        higher: whether folders beside the table's are searched too, as COCO's annotations and images lie. Not for names
            that another set of images may have as well.

    Returns:
        An absolute folder; `near` where none has any of the images.
    """
    near = Path(os.path.abspath(near))
    places = [near, *_folders(near), *([near.parent, *_folders(near.parent)] if higher else [])][:FOLDERS]
    return str(
        max(places, key=lambda place: sum(os.path.isfile(place / name) for name in names))
    )  # the first of equals


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return []
