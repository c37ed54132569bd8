"""Parquet files: a table of paths and captions, or images and captions themselves."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np

from silc.data.folders import MAX_FILE
from silc.data.packing.columns import Columns, choose, described
from silc.data.packing.options import SourceOptions, chosen_splits
from silc.data.packing.paths import below
from silc.data.packing.rows import NO_PATH, Row, Skip, as_captions
from silc.data.packing.tables import Record, Table
from silc.data.packing.walk import walk
from silc.data.shards import Unreadable
from silc.files import check_regular
from silc.text import plural

# Of images one at a time: each can be as large as a page or dictionary of the file, which a few bytes can stand for.
IMAGES_AT_A_TIME, ROWS_AT_A_TIME = 1, 4096
DAMAGED = "unreadable row group"
LARGE = f"image of more than {MAX_FILE >> 20} MiB"
WANTED = "pip install 'silc[pack]'"
_SPLIT = re.compile(r"(train|training|test|testing|val|valid|validation|dev)(?=[-_.]|$)")


def arrow() -> Any:
    """pyarrow.parquet. Raises ValueError where pyarrow is not installed."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise ValueError(f"Parquet files are read by pyarrow, which is not installed: {WANTED}") from None
    return pyarrow.parquet


def open_parquet(source: str, options: SourceOptions) -> Table | HeldInParquet:
    """A Parquet file, or a folder of such.

    Raises ValueError: several splits and none chosen, columns that are missing or differ between files, damage.
    """
    files = [source]
    notes: list[str] = []
    folder = os.path.abspath(source if os.path.isdir(source) else os.path.dirname(os.path.abspath(source)))
    if os.path.isdir(source):
        files, notes = _files(folder, options.split)
    names = [os.path.relpath(os.path.abspath(file), folder) for file in files]
    schema = _schema(folder, names)
    columns = choose(schema.names, options.image_column, options.caption_column)
    title = plural(len(files), "Parquet file") if len(files) > 1 or os.path.isdir(source) else "a Parquet file"
    known = ("image_column", "caption_column", "root", *(["split"] if os.path.isdir(source) else []))
    options.check(title, *known)
    root = os.path.abspath(options.root) if options.root else folder
    import pyarrow

    kind = schema.field(columns.image).type
    if pyarrow.types.is_struct(kind) or _is_bytes(kind):
        return HeldInParquet(folder, tuple(names), columns, root, title, (*notes, described(columns)))
    return Table(title, columns, partial(_records, folder, names, columns), source, options.root, notes)


def _is_bytes(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))


def _files(folder: str, split: str | None) -> tuple[list[str], list[str]]:
    """The Parquet files of the chosen splits, which names of files and folders tell as on the Hugging Face Hub."""
    found = [f"{each.path}{name}" for each in walk(folder) for name in each.files if name.endswith(".parquet")]
    by_split: dict[str, list[str]] = {}
    for name in found:
        by_split.setdefault(_split_of(name), []).append(name)
    wanted = chosen_splits(list(by_split), split)
    notes = [f"split {', '.join(wanted)}"] if wanted != [""] else []
    return [os.path.join(folder, name) for name in found if _split_of(name) in wanted], notes


def _split_of(name: str) -> str:
    for part in reversed(name.removesuffix(".parquet").split("/")):
        if match := _SPLIT.match(part):
            return match[1]
    return ""


def _schema(folder: str, names: Sequence[str]) -> Any:
    """The columns that all files share. Raises ValueError where there are none, or a file is damaged."""
    first = None
    for name in names:
        schema = _file(os.path.join(folder, name)).schema_arrow
        if first is None:
            first = schema
        elif schema.names != first.names:
            raise ValueError(f"{folder}: {names[0]} and {name} have other columns; pack them one by one")
    if first is None:
        raise ValueError(f"{folder} holds no .parquet")
    return first


def _file(path: str) -> Any:
    """Raises ValueError for what is no Parquet file."""
    module = arrow()
    check_regular(path)
    found = os.stat(path)
    import pyarrow

    try:
        # Row groups are read page by page, not as a whole.
        return module.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
    except (pyarrow.ArrowException, OSError) as error:
        first = str(error).partition("\n")[0]
        raise ValueError(f"{path} ({found.st_size:,} bytes) is not a Parquet file that can be read: {first}") from None


def _records(folder: str, names: Sequence[str], columns: Columns) -> Iterator[Record | Skip]:
    """The rows of a table of paths. Raises ValueError where a file is damaged."""
    import pyarrow

    for name in names:
        number = 0
        try:
            for batch in _file(os.path.join(folder, name)).iter_batches(ROWS_AT_A_TIME, columns=list(columns)):
                images, captions = (batch.column(column).to_pylist() for column in columns)
                for image, caption in zip(images, captions, strict=True):
                    yield f"{name}:{number}", image, caption
                    number += 1
        except (pyarrow.ArrowException, OSError) as error:
            first = str(error).partition("\n")[0]
            raise ValueError(f"{os.path.join(folder, name)} is damaged behind row {number:,}: {first}") from None


@dataclass(frozen=True)
class HeldInParquet:
    """Images in Parquet files: bytes, or Hugging Face's {bytes, path}. It is a listing, and rows by number.

    Row groups are read as a whole, in any order; rows inside one keep theirs. In memory are a page of each column, its
    dictionary (the format allows 2 GiB each) and one image, whatever the size of a row group.

    Attributes:
        folder: absolute; files: relative to it.
    """

    folder: str
    files: tuple[str, ...]
    columns: Columns
    root: str
    title: str
    found: tuple[str, ...]

    @property
    def notes(self) -> list[str]:
        return [*self.found, f"{plural(len(self), 'row')} with images in them"]

    @property
    def classes(self) -> tuple[str, ...]:
        return ()

    @property
    def digest(self) -> str:
        found = [os.stat(os.path.join(self.folder, name)) for name in self.files]
        sizes = [(each.st_size, each.st_mtime_ns) for each in found]
        starts = np.concatenate([group[2:3] for group in _groups(self)]).tolist()
        return hashlib.sha256(repr((self.files, sizes, starts, tuple(self.columns))).encode()).hexdigest()

    def __len__(self) -> int:
        return int(_groups(self)[-1][3]) if len(_groups(self)) else 0

    def blocks(self) -> np.ndarray:
        groups = _groups(self)
        return np.append(groups[:, 2], len(self))

    def rows(self) -> Iterator[Row | Skip]:
        return self.read(np.arange(len(self)))

    def read(self, numbers: np.ndarray) -> Iterator[Row | Skip]:
        groups = _groups(self)
        at = 0
        while at < len(numbers):
            group = int(np.searchsorted(groups[:, 3], numbers[at], side="right"))
            file, index, first, end = groups[group].tolist()
            stop = at + 1  # the wanted rows of this group, as long as they ascend
            while stop < len(numbers) and numbers[stop - 1] < numbers[stop] < end:
                stop += 1
            yield from self._group(file, index, first, numbers[at:stop])
            at = stop

    def _group(self, file: int, index: int, first: int, numbers: np.ndarray) -> Iterator[Row | Skip]:
        import pyarrow

        name, wanted, at = self.files[file], (numbers - first).tolist(), 0
        try:
            batches = _file(os.path.join(self.folder, name)).iter_batches(
                IMAGES_AT_A_TIME, row_groups=[index], columns=list(self.columns)
            )
            row = 0
            for batch in batches:
                images, captions = (batch.column(column) for column in self.columns)
                while at < len(wanted) and wanted[at] < row + len(batch):
                    local = wanted[at] - row
                    yield row_of(f"{name}:{first + wanted[at]}", images[local], captions[local], self.root)
                    at += 1
                row += len(batch)
                if at == len(wanted):
                    return
        except (pyarrow.ArrowException, OSError, ValueError):
            yield from (Skip(f"{name}:{first + number}", DAMAGED) for number in wanted[at:])


@lru_cache(maxsize=4)
def _groups(held: HeldInParquet) -> np.ndarray:
    """int64 [groups, 4]: file, number in it, first row, end. Groups without rows are left out."""
    found, first = [], 0
    for number, name in enumerate(held.files):
        metadata = _file(os.path.join(held.folder, name)).metadata
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            if rows > 0:
                found.append((number, group, first, first + rows))
                first += rows
    return np.array(found, dtype=np.int64).reshape(-1, 4)


def row_of(name: str, image: Any, caption: Any, root: str) -> Row | Skip:
    """A row whose image is bytes, a path, or Hugging Face's {bytes, path}.

    Args:
        image, caption: scalars of Arrow, so that what is too large is not copied.
    """
    try:
        data = _image(image)
        if data is None:
            return Skip(name, NO_PATH)
        return Row(name, data if isinstance(data, bytes) else below(data, root), as_captions(caption.as_py()))
    except Unreadable as why:
        return Skip(name, str(why))


def _image(image: Any) -> bytes | str | None:
    """Raises Unreadable for more than MAX_FILE bytes."""
    import pyarrow

    if pyarrow.types.is_struct(image.type):
        if not image.is_valid:
            return None
        fields = {field.name: image[field.name] for field in image.type}
        held = [fields[name] for name in ("bytes", "path") if name in fields]
        return next((value for each in held if (value := _image(each))), None)
    if image.is_valid and hasattr(image, "as_buffer") and image.as_buffer().size > MAX_FILE:
        raise Unreadable(LARGE)
    value = image.as_py()
    return value if isinstance(value, bytes | str) else None
