"""CSV and TSV files, and the caption files of Flickr8k and Flickr30k."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from silc.data.packing.columns import choose
from silc.data.packing.lines import bounded, first_line, opened
from silc.data.packing.options import SourceOptions
from silc.data.packing.rows import Skip
from silc.data.packing.tables import Record, Table

MAX_FIELD = 1 << 20  # characters
DELIMITERS = ",;|\t"
SHORT, BAD_LINE = "row with too few fields", "line without #number and caption"
_QUOTING: dict[bool, Any] = {True: {}, False: {"quoting": csv.QUOTE_NONE}}
Reader = Callable[[], Iterator[tuple[int, list[str]]]]
_TOKEN = re.compile(r"([^\t]+)#\d+\t(.*)")  # Flickr: image.jpg#0<TAB>caption


def open_delimited(path: str, options: SourceOptions) -> Table:
    """A CSV or TSV file whose first line names the columns.

    The delimiter is the tabulator for .tsv, otherwise what the first line has most of.

    Raises ValueError: no columns of these names, a file that is no text.
    """
    header = first_line(path)
    delimiter = "\t" if path.lower().endswith(".tsv") else max(DELIMITERS, key=header.count)
    title = {"\t": "a TSV file", ",": "a CSV file"}.get(delimiter, f"a CSV file with {delimiter!r} between its fields")
    options.check(title, "image_column", "caption_column", "root", "quotes")
    quotes = delimiter != "|" if options.quotes is None else options.quotes
    reader = partial(_fields, path, delimiter, quotes)
    names = [name.strip() for name in next(reader(), (0, []))[1]]
    columns = choose(names, options.image_column, options.caption_column)
    places = names.index(columns.image), names.index(columns.caption)
    records = partial(_records, reader, os.path.basename(path), places)
    return Table(title, columns, records, path, options.root)


def open_token_file(path: str, options: SourceOptions) -> Table:
    """A caption file of Flickr8k or Flickr30k, `image.jpg#0<TAB>caption` a line."""
    title = "a caption file of Flickr8k or Flickr30k"
    options.check(title, "root")
    return Table(title, None, partial(_tokens, path), path, options.root, higher=True)


def is_token_line(line: str) -> bool:
    """Whether a line is one of a caption file of Flickr."""
    return _TOKEN.fullmatch(line) is not None


def _fields(path: str, delimiter: str, quotes: bool) -> Iterator[tuple[int, list[str]]]:
    """(number of its last line, fields) of each row. Raises ValueError, naming the line."""
    csv.field_size_limit(MAX_FIELD)  # of the process; others may have raised it
    with opened(path) as file:
        reader = csv.reader(bounded(file, path), delimiter=delimiter, strict=True, **_QUOTING[quotes])
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                hint = "; is a quotation mark not closed? --no-quotes takes them as they are" if quotes else ""
                raise ValueError(f"{path}: line {reader.line_num:,}: {error}{hint}") from None
            yield reader.line_num, row


def _records(reader: Reader, name: str, places: tuple[int, int]) -> Iterator[Record | Skip]:
    rows = reader()
    next(rows, None)
    for line, row in rows:
        if not row:  # a blank line
            continue
        if len(row) <= max(places):
            yield Skip(f"{name}:{line}", SHORT)
        else:
            yield f"{name}:{line}", row[places[0]].strip(), row[places[1]]


def _tokens(path: str) -> Iterator[Record | Skip]:
    name = os.path.basename(path)
    with opened(path) as file:
        for number, line in enumerate(bounded(file, path), 1):
            found = _TOKEN.fullmatch(line.rstrip("\r\n"))
            if found is not None:
                yield f"{name}:{number}", found[1], found[2]
            elif line.strip():
                yield Skip(f"{name}:{number}", BAD_LINE)
