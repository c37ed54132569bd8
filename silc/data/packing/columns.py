"""Which columns of a table hold the image and its caption: those that are named, or else the usual names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from silc.data.shards.errors import few

# In the order in which they are tried; case, spaces and dashes do not count.
IMAGE = (
    *("image", "image_path", "image_file", "image_filename", "image_name", "img", "img_path", "picture", "photo"),
    *("file_name", "filename", "filepath", "file_path", "file", "path", "jpg", "jpeg", "png", "webp"),
)
CAPTION = (
    *("caption", "captions", "text", "texts", "txt", "alt_text", "alt", "title", "description"),
    *("sentence", "sentences", "comment", "raw", "prompt"),
)
URLS = ("url", "image_url", "img_url", "image_urls", "link")


class Columns(NamedTuple):
    """Names of columns, as the table spells them."""

    image: str
    caption: str


def choose(columns: Sequence[str], image: str | None, caption: str | None) -> Columns:
    """The columns of a table.

    Args:
        columns: all of them.
        image, caption: what the user named; None: search.

    Raises ValueError where one is not there, or none has a usual name.
    """
    plain = {_plain(name): name for name in reversed(columns)}  # of two alike the first
    found_image = _named(columns, image, "--image-column") or next((plain[n] for n in IMAGE if n in plain), None)
    found_caption = _named(columns, caption, "--caption-column") or usual_caption(
        [name for name in columns if name != found_image]
    )
    shown = few(columns) or "none"
    if found_image is None and any(name in plain for name in URLS):
        raise ValueError(
            f"it names web addresses, not files (columns: {shown}); download the images with img2dataset, which "
            "writes shards that `silc train` reads as they are, or name a column of paths with --image-column"
        )
    if found_image is None:
        raise ValueError(
            f"no column of images among {shown}; name one with --image-column (its first line must hold the names)"
        )
    if found_caption is None:
        raise ValueError(f"no column of captions among {shown}; name one with --caption-column")
    return Columns(found_image, found_caption)


def usual_caption(columns: Iterable[str]) -> str | None:
    """The column that captions are in by the usual names; None: none has one."""
    plain: dict[str, str] = {}
    for name in columns:
        plain.setdefault(_plain(name), name)  # of two alike the first
    return next((plain[name] for name in CAPTION if name in plain), None)


def described(columns: Columns) -> str:
    """A sentence on the choice."""
    return f"images from column {columns.image!r}, captions from column {columns.caption!r}"


def _named(columns: Sequence[str], name: str | None, option: str) -> str | None:
    if name is not None and name not in columns:
        raise ValueError(f"{option} {name}: there is no such column, only {few(columns) or 'none'}")
    return name


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")
