"""From a row to the members of a sample."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

from PIL import Image

from silc.data.captions import MAX_CAPTION, CaptionReader, looks_like_json, visible
from silc.data.folders import MAX_FILE
from silc.data.images.decode import decode_image
from silc.data.packing.content import extension
from silc.data.packing.resize import resized
from silc.data.packing.rows import IRREGULAR, JSON, MISSING, Row
from silc.data.shards import Unreadable
from silc.data.shards.caption_key import MOST
from silc.files import read_regular

MAX_CAPTIONS = 4 << 20  # bytes of a file with captions
EMPTY, LONG, HALF = "empty caption", "caption of more than 256 KiB", "caption with half a character"
NO_IMAGE = "not an image of a known format"
_LINES = re.compile("[\r\n]+")

Members = list[tuple[str, bytes]]
"""Extension and bytes of each member of a sample, in the order of the tar."""


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """How samples are made.

    Attributes:
        size: pixels of the shorter side of larger images, which are encoded anew; None: files are kept as they are.
        quality: of JPEG.
        verify: whether images that are kept are decoded, and left out where that fails.
        max_pixels: of an image that is decoded.
        captions: where a folder has its captions.
    """

    size: int | None
    quality: int
    verify: bool
    max_pixels: int
    captions: str


class SampleMaker:
    """Makes samples of rows.

    Args:
        root: folder that paths count from.
        options: see there.
    """

    def __init__(self, root: str, options: SampleOptions) -> None:
        self._root, self._options = root, options
        self._reader = CaptionReader(options.captions, lines=True)

    def __call__(self, row: Row) -> Members:
        """image, txt (a caption a line), cls where there are classes, json with the row's name.

        Raises Unreadable where the image or every caption of the row cannot be used.
        """
        captions = self._captions(row)
        kind, data = self._image(row)
        members = [(kind, data), ("txt", "\n".join(captions).encode())]
        if row.label is not None:
            members.append(("cls", str(row.label).encode()))
        members.append(("json", json.dumps({"source": row.name}).encode()))
        return members

    def _captions(self, row: Row) -> list[str]:
        if row.captions is None:
            return tidy(self._reader.read(self._file(str(row.beside), MAX_CAPTIONS)))
        return tidy(row.captions)

    def _image(self, row: Row) -> tuple[str, bytes]:
        data = row.image if isinstance(row.image, bytes) else self._file(row.image)
        kind = extension(data)
        if kind is None:
            raise Unreadable(NO_IMAGE)
        if len(data) > MAX_FILE:
            raise Unreadable(f"image of more than {MAX_FILE >> 20} MiB")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit is ours
            return self._decoded(kind, data)

    def _decoded(self, kind: str, data: bytes) -> tuple[str, bytes]:
        options = self._options
        if options.size is not None:
            smaller = resized(data, options.size, options.quality, options.max_pixels)
            return (kind, data) if smaller is None else ("jpg", smaller)
        if options.verify:
            decode_image(data, options.max_pixels)
        return kind, data

    def _file(self, path: str, limit: int = MAX_FILE) -> bytes:
        place = f"{self._root}/{path}"
        try:
            return read_regular(place, limit)
        except FileNotFoundError:
            raise Unreadable(MISSING) from None
        except OSError as error:
            raise Unreadable(f"unreadable file ({error.strerror})") from None
        except ValueError as error:
            raise Unreadable(IRREGULAR if "bytes; at most" not in str(error) else "file too large") from None


def tidy(texts: Iterable[str]) -> list[str]:
    """Captions as lines of a txt member: line ends inside one become a blank, and those without a visible character
    are left out. At most MOST, as many as are read.

    Raises Unreadable where none is left, where all are JSON, are longer together than a reader reads, or are no text.
    """
    lines = [_LINES.sub(" ", text).strip() for text in texts]
    lines = [line for line in lines if visible(line)][:MOST]
    if not lines:
        raise Unreadable(EMPTY)
    if all(map(looks_like_json, lines)):
        raise Unreadable(JSON)
    try:
        size = len("\n".join(lines).encode())
    except UnicodeEncodeError:
        raise Unreadable(HALF) from None
    if size > MAX_CAPTION:
        raise Unreadable(LONG)
    return lines
