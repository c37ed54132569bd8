"""The work of one process: a unit of rows becomes a few tars and a record of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from silc.data.packing.plan import Order, Unit
from silc.data.packing.rows import Rows, Skip
from silc.data.packing.sample import SampleMaker, SampleOptions
from silc.data.packing.skips import SkipFile
from silc.data.packing.tars import Part, PartWriter, part_name
from silc.data.shards import Unreadable
from silc.data.shards.caption_key import MOST
from silc.files import parse_json, read_text, write_text
from silc.storage import Store

MAX_RECORD = 64 << 20  # bytes


@dataclass(frozen=True)
class Job:
    """A unit, and all that is needed to do it.

    Attributes:
        folder: of the tars and records of units.
        root: of the paths in rows.
        samples, size: of a shard, at most; size in bytes.
        allowed: rows that may be skipped in all; a unit that skips more stops.
    """

    unit: Unit
    rows: Rows
    order: Order
    folder: str
    root: str
    making: SampleOptions
    samples: int
    size: int
    allowed: int


class Record(NamedTuple):
    """What a unit became.

    Attributes:
        unit: its number.
        parts: its tars.
        kinds: images by extension.
        captions: of all samples.
        full: samples with MOST captions, the others of which may have been left out.
        skipped: rows that were left out, by reason; all of them are in a file beside the record.
        examples: names of some, by reason.
        whole: whether all rows were looked at.
    """

    unit: int
    parts: list[Part]
    kinds: dict[str, int]
    captions: int
    full: int
    skipped: dict[str, int]
    examples: dict[str, list[str]]
    whole: bool

    @property
    def samples(self) -> int:
        return sum(part.samples for part in self.parts)


def pack_units(jobs: Sequence[Job], _store: Store) -> list[Record]:
    """Do some units. Raises OSError where a tar cannot be written."""
    return [_pack(job) for job in jobs]


def _pack(job: Job) -> Record:
    folder, number = Path(job.folder), job.unit.number
    make = SampleMaker(job.root, job.making)
    writer = PartWriter(folder, stem_of(number), job.samples, job.size)
    kinds: Counter[str] = Counter()
    captions, full, whole = 0, 0, True
    try:
        with SkipFile(folder / skipped_of(number)) as skipped:
            for place, row in enumerate(job.rows.read(job.order.rows(job.unit)), job.unit.first):
                try:
                    if isinstance(row, Skip):
                        raise Unreadable(row.reason)
                    members = make(row)
                except Unreadable as why:
                    skipped.add(Skip(row.name, str(why)))
                    if len(skipped) > job.allowed:
                        whole = False
                        break
                    continue
                writer.add(f"{place:09d}", members)
                kinds[members[0][0]] += 1
                lines = members[1][1].count(b"\n") + 1
                captions, full = captions + lines, full + (lines == MOST)
        parts = writer.close() if whole else []
    finally:
        writer.abandon()
    record = Record(number, parts, dict(kinds), captions, full, dict(skipped.counts), skipped.examples, whole)
    if whole:
        write_text(folder / f"{stem_of(number)}.json", json.dumps(record))
    return record


def stem_of(unit: int) -> str:
    """The beginning of the names of a unit's files."""
    return f"{unit:06d}"


def skipped_of(unit: int) -> str:
    """Name of the file with the rows that a unit left out."""
    return f"{stem_of(unit)}.skipped.jsonl"


def read_record(folder: Path, unit: int) -> Record | None:
    """The record of a unit that was done, or None: it was not, or its record is damaged."""
    try:
        value: Any = parse_json(read_text(folder / f"{stem_of(unit)}.json", MAX_RECORD))
        record = Record(*value)
        record = record._replace(parts=[Part(*part) for part in record.parts])
    except (OSError, ValueError, TypeError):
        return None
    return record if record.unit == unit and record.whole else None


def tars_of(record: Record) -> list[str]:
    """Names of a unit's tars, before the shards are numbered."""
    return [part_name(stem_of(record.unit), number) for number in range(len(record.parts))]
