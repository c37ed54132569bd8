"""CSV and TSV files, and the caption files of Flickr8k and Flickr30k."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TextIO

from silc.data.packing.columns import choose
from silc.data.packing.lines import bounded, first_line, opened
from silc.data.packing.options import SourceOptions
from silc.data.packing.rows import Skip
from silc.data.packing.tables import Record, Table

MAX_FIELD = 1 << 20  # characters
DELIMITERS = ",;|\t"
FLICKR = "comment_number"  # a column of Flickr30k's results.csv, whose quotation marks are plain characters
SHORT, BAD_LINE = "row with too few fields", "line without #number and caption"
LONG = "row with too many fields (a caption with delimiters in it needs quotation marks)"
_QUOTING: dict[bool, Any] = {True: {}, False: {"quoting": csv.QUOTE_NONE}}
Reader = Callable[[], Iterator["Fields"]]
_TOKEN = re.compile(r"([^\t]+)#\d+\t(.*)")  # Flickr: image.jpg#0<TAB>caption


class Fields(NamedTuple):
    """A row.

    Attributes:
        line: number of its last line.
        fields: unquoted.
        lines: as they stand in the file; empty where it is only one.
    """

    line: int
    fields: list[str]
    lines: list[str]


def open_delimited(path: str, options: SourceOptions) -> Table:
    """A CSV or TSV file whose first line names the columns.

    The delimiter is the tabulator for .tsv, otherwise what the first line has most of.

    Raises ValueError: no columns of these names, a file that is no text.
    """
    header = first_line(path)
    delimiter = "\t" if path.lower().endswith(".tsv") else max(DELIMITERS, key=header.count)
    title = {"\t": "a TSV file", ",": "a CSV file"}.get(delimiter, f"a CSV file with {delimiter!r} between its fields")
    options.check(title, "image_column", "caption_column", "root", "quotes")
    quotes = FLICKR not in header if options.quotes is None else options.quotes
    reader = partial(_fields, path, delimiter, quotes)
    names = [name.strip() for name in next(reader(), Fields(0, [], [])).fields]
    columns = choose(names, options.image_column, options.caption_column)
    rows = _Rows(path, delimiter, len(names), names.index(columns.image), names.index(columns.caption))
    records = partial(rows.records, reader)
    return Table(title, columns, records, path, options.root)


def open_token_file(path: str, options: SourceOptions) -> Table:
    """A caption file of Flickr8k or Flickr30k, `image.jpg#0<TAB>caption` a line."""
    title = "a caption file of Flickr8k or Flickr30k"
    options.check(title, "root")
    return Table(title, None, partial(_tokens, path), path, options.root, higher=True)


def is_token_line(line: str) -> bool:
    """Whether a line is one of a caption file of Flickr."""
    return _TOKEN.fullmatch(line) is not None


def _fields(path: str, delimiter: str, quotes: bool) -> Iterator[Fields]:
    """The rows. Raises ValueError, naming the line."""
    csv.field_size_limit(MAX_FIELD)  # of the process; others may have raised it
    lines: list[str] = []

    def kept(file: TextIO) -> Iterator[str]:
        for line in bounded(file, path):
            lines.append(line)
            yield line

    with opened(path) as file:
        reader = csv.reader(kept(file), delimiter=delimiter, strict=True, **_QUOTING[quotes])
        while True:
            lines.clear()
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                hint = "; is a quotation mark not closed? --no-quotes takes them as they are" if quotes else ""
                raise ValueError(f"{path}: line {reader.line_num:,}: {error}{hint}") from None
            yield Fields(reader.line_num, row, lines[:] if len(lines) > 1 else [])


@dataclass(frozen=True)
class _Rows:
    """What the rows of a file mean.

    Attributes:
        width: fields that a row has.
        image, caption: places among them.
    """

    path: str
    delimiter: str
    width: int
    image: int
    caption: int

    def records(self, reader: Reader) -> Iterator[Record | Skip]:
        """Raises ValueError for rows that a quotation mark has joined."""
        rows, name = reader(), os.path.basename(self.path)
        next(rows, None)
        for row in rows:
            fields = row.fields
            if not fields:  # a blank line
                continue
            if len(fields) <= max(self.image, self.caption):
                yield Skip(f"{name}:{row.line}", SHORT)
                continue
            self._check_quotes(row)
            if len(fields) > self.width and self.caption == self.width - 1:  # its delimiters were not quoted
                yield f"{name}:{row.line}", fields[self.image].strip(), self.delimiter.join(fields[self.caption :])
            elif any(fields[self.width :]):
                yield Skip(f"{name}:{row.line}", LONG)
            else:
                yield f"{name}:{row.line}", fields[self.image].strip(), fields[self.caption]

    def _check_quotes(self, row: Fields) -> None:
        """Refuse a quoted field over several lines of which another than the row's own is a row by itself.

        A caption that begins with a quotation mark takes all rows up to the next mark: these would be lost.
        """
        others = row.lines[1:] if self.image < self.caption else row.lines[:-1]
        ending = _ending(row.fields[self.image])
        for line in others:
            fields = line.split(self.delimiter)
            if len(fields) >= self.width and _ending(fields[self.image]) == ending:
                raise ValueError(
                    f"{self.path}: line {row.line:,}: a quotation mark encloses {len(row.lines):,} lines, of which "
                    f"others are rows, such as {line.strip()!r:.80}; --no-quotes takes the marks as they are, or "
                    'double those inside a caption and enclose it: "a ""big"" dog"'
                )


def _ending(name: str) -> str:
    return os.path.splitext(name.strip(' "\r\n'))[1].lower()


def _tokens(path: str) -> Iterator[Record | Skip]:
    name = os.path.basename(path)
    with opened(path) as file:
        for number, line in enumerate(bounded(file, path), 1):
            found = _TOKEN.fullmatch(line.rstrip("\r\n"))
            if found is not None:
                yield f"{name}:{number}", found[1], found[2]
            elif line.strip():
                yield Skip(f"{name}:{number}", BAD_LINE)
