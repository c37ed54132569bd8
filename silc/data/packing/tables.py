"""Tables of paths and captions, whatever file they are in."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from silc.data.packing.columns import Columns, described
from silc.data.packing.paths import below, find_root
from silc.data.packing.rows import Row, Skip, as_captions, grouped
from silc.data.shards import Unreadable

Record = tuple[str, object, object]
"""Name of the row, image and caption, as the file has them."""

TRIED = 8  # images that are looked for where the root is not given


class Table:
    """Rows of a table. Rows of one image that follow one another become one sample with several captions.

    Args:
        title: what the file is.
        columns: which hold images and captions.
        records: reads the file from its beginning.
        path: of the file.
        root: folder that the paths in it are relative to; None: where the first images are found, near the file.
        notes: further sentences on what was found.
        higher: where these may be, see :func:`silc.data.packing.paths.find_root`.
    """

    def __init__(
        self,
        title: str,
        columns: Columns | None,
        records: Callable[[], Iterator[Record | Skip]],
        path: str,
        root: str | None,
        notes: list[str] | None = None,
        *,
        higher: bool = False,
    ) -> None:
        self.title = title
        self.classes: tuple[str, ...] = ()
        self.notes = [*([described(columns)] if columns is not None else []), *(notes or [])]
        self._records = records
        folder = os.path.abspath(path if os.path.isdir(path) else os.path.dirname(os.path.abspath(path)))
        if root is None:
            self.root = find_root(self._first_images(), Path(folder), higher=higher)
        else:
            self.root = os.path.abspath(root)
        if self.root != folder:
            self.notes.append(f"images are looked for in {self.root}")

    def rows(self) -> Iterator[Row | Skip]:
        return grouped(self._plain())

    def _plain(self) -> Iterator[Row | Skip]:
        for record in self._records():
            if isinstance(record, Skip):
                yield record
                continue
            name, image, caption = record
            try:
                yield Row(name, below(image, self.root), as_captions(caption))
            except Unreadable as why:
                shown = f"{name} ({image})" if isinstance(image, str) else name
                yield Skip(shown, str(why))

    def _first_images(self) -> list[str]:
        found = (record[1] for record in islice(self._records(), TRIED) if not isinstance(record, Skip))
        return [image for image in found if isinstance(image, str)]
