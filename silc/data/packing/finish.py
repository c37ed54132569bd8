"""The end of a pack: the shards get their numbers, and what was left out is written down."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from silc.data.packing.skips import join
from silc.data.packing.spool import SKIPPED as LISTED
from silc.data.packing.work import Record, skipped_of, tars_of
from silc.files import read_text, sync_folder, write_text

SKIPPED, CLASSES = "skipped.jsonl", "classnames.txt"
DIGITS = 5  # of a shard's number, at least


def shard_names(records: Sequence[Record]) -> list[tuple[Record, int, str]]:
    """Record, number of the tar in it, and name of the shard, in order."""
    parts = [(record, part) for record in records for part in range(len(record.parts))]
    digits = max(DIGITS, len(str(len(parts) - 1)))
    return [(record, part, f"{number:0{digits}d}.tar") for number, (record, part) in enumerate(parts)]


def is_there(record: Record, units: Path, named: dict[int, list[str]]) -> bool:
    """Whether all tars of a unit are there, under their first names or as shards (`named`: by number of the unit)."""
    shards = named.get(record.unit, [])
    for number, (name, part) in enumerate(zip(tars_of(record), record.parts, strict=True)):
        places = [units / name, *([units.parent / shards[number]] if shards else [])]
        if not any(place.is_file() and place.stat().st_size == part.size for place in places):
            return False
    return True


def name_shards(records: Sequence[Record], units: Path, out: Path) -> list[tuple[str, int, int]]:
    """Give the tars of all units their places, in order. Where that was interrupted, it goes on.

    Returns name, samples and bytes of each shard.
    """
    shards = []
    for record, part, name in shard_names(records):
        place = units / tars_of(record)[part]
        if place.exists():
            place.replace(out / name)
        shards.append((name, *record.parts[part]))
    sync_folder(out)
    return shards


def write_skipped(out: Path, units: Path, count: int) -> None:
    """Every row that was left out, a line each; no file where there is none. Raises OSError."""
    join([units / LISTED, *(units / skipped_of(unit) for unit in range(count))], out / SKIPPED)


def check_classes(out: Path, names: Sequence[str]) -> None:
    """Raises ValueError where a list of other classes is in the place of this one."""
    place = classes_place(out)
    if names and place.exists() and read_text(place, 1 << 26) != _text(names):
        raise ValueError(
            f"{place} lists other classes than the source has; labels would not agree: pack the same classes, or take "
            "another --out"
        )


def write_classes(out: Path, names: Sequence[str]) -> Path | None:
    """The names of the classes, a line each. Returns where. Raises OSError."""
    if not names:
        return None
    write_text(classes_place(out), _text(names))
    return classes_place(out)


def classes_place(out: Path) -> Path:
    """Beside the shards; above them where their folder is `test` or `train` (the layout `wds` of silc evaluate)."""
    return (out.parent if out.name in ("test", "train") else out) / CLASSES


def _text(names: Sequence[str]) -> str:
    return "".join(f"{name}\n" for name in names)
