"""Hugging Face data sets on disk, as `save_to_disk` writes them. No code of a data set is run."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from silc.data.packing.columns import Columns, choose, described
from silc.data.packing.options import SourceOptions, chosen_splits
from silc.data.packing.parquet import WANTED, row_of
from silc.data.packing.rows import Row, Skip
from silc.files import check_regular, read_json
from silc.text import plural

MARKS = ("dataset_dict.json", "state.json")  # of a folder with splits, and of one without
DAMAGED = "unreadable rows"
MAX_STATE = 64 << 20  # bytes of these files


def is_saved(folder: str) -> bool:
    """Whether `save_to_disk` wrote a folder."""
    return any(os.path.isfile(os.path.join(folder, mark)) for mark in MARKS)


def open_saved(folder: str, options: SourceOptions) -> HeldInDataset:
    """A folder that `save_to_disk` wrote.

    Raises ValueError: several splits and none chosen, missing columns, a damaged folder, no `datasets` installed.
    """
    title = "a Hugging Face data set on disk"
    options.check(title, "image_column", "caption_column", "root", "split")
    place = os.path.abspath(folder)
    listed = os.path.join(place, MARKS[0])
    if os.path.isfile(listed):
        content = read_json(listed, MAX_STATE)
        names = content.get("splits") if isinstance(content, dict) else None
        if not (isinstance(names, list) and names and all(_is_name(name) for name in names)):
            raise ValueError(f"{listed} names no splits")
        wanted = chosen_splits(names, options.split)
        if len(wanted) > 1:
            raise ValueError(
                f"--split {options.split}: give one of {', '.join(names[:20])}; pack the others by themselves"
            )
        place = os.path.join(place, wanted[0])
    columns = choose(_data_set(place).column_names, options.image_column, options.caption_column)
    root = os.path.abspath(options.root) if options.root else os.path.abspath(folder)
    return HeldInDataset(place, columns, root, title)


def _is_name(name: object) -> bool:
    """Whether a split can be the name of a folder in this one, and nothing else."""
    return isinstance(name, str) and name not in ("", ".", "..") and "/" not in name and "\0" not in name


@dataclass(frozen=True)
class HeldInDataset:
    """Rows of a data set on disk, memory-mapped; of files that are compressed inside (`save_to_disk` writes none) the
    rows that were compressed together are in memory. It is a listing, and rows by number.

    Attributes:
        place: folder of the split.
        root: folder of images that are not in the data set, but named by it.
    """

    place: str
    columns: Columns
    root: str
    title: str

    @property
    def notes(self) -> list[str]:
        return [described(self.columns), plural(len(self), "row")]

    @property
    def classes(self) -> tuple[str, ...]:
        return ()

    @property
    def digest(self) -> str:
        data = _data_set(self.place)
        places = [os.path.join(self.place, name) for name in sorted(os.listdir(self.place)) if name.endswith(".arrow")]
        files = [(os.path.basename(place), os.stat(place).st_size, os.stat(place).st_mtime_ns) for place in places]
        facts = (data._fingerprint, len(data), files, tuple(self.columns))
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    def __len__(self) -> int:
        return len(_data_set(self.place))

    def blocks(self) -> None:
        return None

    def rows(self) -> Iterator[Row | Skip]:
        return self.read(np.arange(len(self)))

    def read(self, numbers: np.ndarray) -> Iterator[Row | Skip]:
        import pyarrow

        table = _columns(self)
        for number in numbers.tolist():
            try:
                row = table[number]
                image, caption = (row.column(name)[0] for name in self.columns)
                yield row_of(str(number), image, caption, self.root)
            except (pyarrow.ArrowException, OSError, ValueError):
                yield Skip(str(number), DAMAGED)


@lru_cache(maxsize=4)
def _data_set(place: str) -> Any:
    """Raises ValueError for a damaged folder."""
    try:
        import datasets
    except ImportError:
        raise ValueError(f"Hugging Face data sets are read by `datasets`, which is not installed: {WANTED}") from None
    # The library says of many kinds of damage only which key it missed, and would wait for a pipe.
    try:
        _check_files(place)
        return datasets.load_from_disk(place, keep_in_memory=False).with_format(None)
    except Exception as error:
        raise ValueError(f"{place} is no data set that can be read: {type(error).__name__}: {error!s:.200}") from None


def _check_files(place: str) -> None:
    """Raises ValueError where the folder's JSON is damaged, or its data are not regular files in it."""
    state, info = (read_json(os.path.join(place, name), MAX_STATE) for name in ("state.json", "dataset_info.json"))
    if not isinstance(info, dict):
        raise ValueError("dataset_info.json is no object")
    for listed in ("_data_files", "_indices_data_files"):
        for file in state.get(listed) or []:
            if not _is_name(file["filename"]):
                raise ValueError(f"{file['filename']!r:.100} is no file in it")
            check_regular(os.path.join(place, file["filename"]))


@lru_cache(maxsize=4)
def _columns(held: HeldInDataset) -> Any:
    """The two columns in Arrow's types, images as their files' bytes."""
    import datasets

    data = _data_set(held.place).select_columns(list(held.columns))
    if isinstance(data.features[held.columns.image], datasets.Image):
        data = data.cast_column(held.columns.image, datasets.Image(decode=False))
    return data.with_format("arrow")
