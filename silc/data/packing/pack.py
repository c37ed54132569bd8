"""Packing: all units of a source, in several processes, going on after an interruption.

OUT/pack.json       the plan, before any work; in the end also what became of it
OUT/.packing/       while it works: the rows, and the tars of finished units with a record of each
OUT/00000.tar ...   the shards, named when all units are done: a folder with shards in it is whole
OUT/shards.manifest, *.tar.idx, *.tar.cap   the index
OUT/skipped.jsonl   every row that was left out, and why
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from silc.data.packing import finish, state
from silc.data.packing.plan import Order, Unit, cut, default_samples
from silc.data.packing.rows import Listing, Rows
from silc.data.packing.sample import SampleOptions
from silc.data.packing.skips import Tally
from silc.data.packing.spool import Spool, spool
from silc.data.packing.state import Finished, Plan
from silc.data.packing.work import Job, Record, pack_units, read_record, stem_of
from silc.data.shards import pool
from silc.data.shards.build import IMAGES, MOST_PROCESSES, Progress, build
from silc.data.shards.errors import few
from silc.data.shards.places import LOCK, only_one
from silc.errors import RunStopped
from silc.files import make_folder
from silc.text import plural

UNITS = ".packing"
INDEX = ("shards.manifest", ".shards.manifest.part", LOCK)


@dataclass(frozen=True, kw_only=True)
class PackOptions:
    """How a source is packed.

    Attributes:
        making: how samples are made.
        reading: options of the source that were given, by name: they are part of the plan.
        samples: of a shard, at most; None: 10,000, fewer for small sources.
        size: bytes of a shard, at most.
        seed: of the order; None: the source's own order.
        limit: rows that are taken; None: all.
        max_skipped: share of the rows that may be left out.
        jobs: processes; None: one a processor.
        force: start anew where another pack was in the folder.
    """

    making: SampleOptions
    reading: dict[str, Any]
    samples: int | None
    size: int
    seed: int | None
    limit: int | None
    max_skipped: float
    jobs: int | None
    force: bool


def pack(
    listing: Listing, source: str, out: Path, options: PackOptions, progress: Progress, say: Callable[[str], None]
) -> Finished:
    """Pack a source into shards in the folder `out`, with their index.

    Raises:
        ValueError: `out` has other shards, another plan, or another process in it, or cannot be written to.
        RunStopped: too many rows cannot be used; a process was killed.
        OSError: a file cannot be written.
    """
    out = Path(os.path.abspath(out))
    finish.check_classes(out, listing.classes)
    _make(out)
    with state.alone(out):
        units = out / UNITS
        units.mkdir(exist_ok=True)
        rows, listed = _rows(listing, units)
        plan = _plan(listing, os.path.relpath(source, out), rows, options)
        before = None if options.force and _removed(out) else state.read(out)
        if before is not None and before[1] is None and not any(units.glob("*.json")):
            before = None  # nothing was done yet that another plan could spoil
        if before is not None and (differs := state.difference(before[0], plan)):
            raise ValueError(
                f"{out} was begun otherwise ({differs}); go on with the same command, take another --out, or start "
                "anew with --force, which removes what is there"
            )
        if before is not None and before[1] is not None and _all_there(out, before[1]):
            shutil.rmtree(units)
            when = datetime.fromtimestamp((out / state.NAME).stat().st_mtime).strftime("%Y-%m-%d %H:%M")
            say(f"{out} was packed before, on {when}, and is left as it is; --force packs anew")
            return before[1]
        _refuse_others(out)
        if before is None:
            state.write(out, plan)
        return _go_on(_Pack(listing, rows, listed, plan, out, options, say), progress)


@dataclass(frozen=True)
class _Pack:
    listing: Listing
    rows: Rows
    listed: Tally
    plan: Plan
    out: Path
    options: PackOptions
    say: Callable[[str], None]

    @property
    def units(self) -> Path:
        return self.out / UNITS

    @property
    def total(self) -> int:
        """Rows that are looked at; without a limit also those that the listing left out."""
        limit = self.options.limit
        return len(self.rows) + len(self.listed) if limit is None else min(len(self.rows), limit)


class _Done:
    """The units that are done, and what they became together."""

    def __init__(self, listed: Tally) -> None:
        self.records: dict[int, Record] = {}
        self.samples = self.captions = self.full = self.size = 0
        self.kinds: Counter[str] = Counter()
        self.skipped = Tally(listed.counts, listed.examples)

    def add(self, record: Record) -> None:
        self.records[record.unit] = record
        self.samples += record.samples
        self.captions += record.captions
        self.full += record.full
        self.size += sum(part.size for part in record.parts)
        self.kinds.update(record.kinds)
        self.skipped.update(Tally(record.skipped, record.examples))


def _go_on(this: _Pack, progress: Progress) -> Finished:
    options = this.options
    samples = options.samples or default_samples(len(this.rows))
    order, units = cut(this.rows, options.seed, samples, options.limit)
    done = _Done(this.listed)
    for record in _done_before(this, len(units)):
        done.add(record)
    _check_skipped(this, done, len(units))
    jobs = [_job(this, unit, order, samples) for unit in units if unit.number not in done.records]
    processes = min(options.jobs or min(len(os.sched_getaffinity(0)), MOST_PROCESSES), len(jobs))
    for record in pool.done(pack_units, jobs, processes if processes > 1 else 0, handful=1):
        done.add(record)
        _check_skipped(this, done, len(units))
        progress(len(done.records), len(units), done.samples, done.size)
    return _finish(this, done, len(units))


def _job(this: _Pack, unit: Unit, order: Order, samples: int) -> Job:
    allowed = int(this.options.max_skipped * this.total)
    making = this.options.making
    return Job(unit, this.rows, order, str(this.units), this.listing.root, making, samples, this.options.size, allowed)


def _done_before(this: _Pack, count: int) -> list[Record]:
    """The records of units that an earlier process finished and whose tars are there."""
    found = [record for i in range(count) if (record := read_record(this.units, i)) is not None]
    named: dict[int, list[str]] = {}
    if len(found) == count:  # only then have shards been named
        for record, _, name in finish.shard_names(found):
            named.setdefault(record.unit, []).append(name)
    return [record for record in found if finish.is_there(record, this.units, named)]


def _check_skipped(this: _Pack, done: _Done, count: int) -> None:
    """Stop as soon as it is certain that too many rows cannot be used.

    The units that lost most are done again by the next start, when what was missing may be there.
    """
    limit, skipped, total = this.options.max_skipped, len(done.skipped), this.total
    if this.options.limit is not None:  # what is listed and what is taken have each their own share
        listed = len(this.listed)
        skipped -= listed
        if listed > limit * (whole := len(this.rows) + listed):
            skipped, total = listed, whole
    if skipped <= limit * total:
        return
    finish.write_skipped(this.out, this.units, count)
    for record in done.records.values():
        lost = sum(record.skipped.values())
        if lost > limit * (lost + record.samples):
            (this.units / f"{stem_of(record.unit)}.json").unlink(missing_ok=True)
    raise RunStopped(
        f"{skipped:,} of {plural(total, 'row')} cannot be used, more than --max-skipped {limit:g} allows: "
        f"{done.skipped}; see {this.out / finish.SKIPPED}, and start again when that is mended"
    )


def _finish(this: _Pack, done: _Done, count: int) -> Finished:
    if not done.samples:
        raise RunStopped(f"no sample could be made of {plural(this.total, 'row')}: {done.skipped}")
    finish.write_skipped(this.out, this.units, count)
    shards = finish.name_shards([done.records[unit] for unit in range(count)], this.units, this.out)
    finish.write_classes(this.out, this.listing.classes)
    tally = done.skipped
    total = Finished(done.samples, done.captions, done.full, shards, done.kinds, tally.counts, tally.examples)
    _index(this, total)
    state.write(this.out, this.plan, total)
    if isinstance(this.rows, Spool):
        this.rows.close()
    shutil.rmtree(this.units)
    return total


def _index(this: _Pack, total: Finished) -> None:
    addresses = [str(this.out / name) for name, _, _ in total.shards]
    images = list(dict.fromkeys([*IMAGES, *sorted(total.kinds)]))
    with only_one(this.out / LOCK, this.say):
        built = build(addresses, f"{this.out}/", caption="txt", images=images, jobs=this.options.jobs)
    if built.manifest is None or int(built.manifest.samples.sum()) != total.samples:
        raise RunStopped(f"{this.out}: the index does not find what was packed: {few(built.bad or built.notes)}")


def _rows(listing: Listing, units: Path) -> tuple[Rows, Tally]:
    """The rows by number, and what the listing left out. Rows that name files are listed on disk first."""
    return (listing, Tally()) if isinstance(listing, Rows) else spool(listing.rows(), units)


def _plan(listing: Listing, source: str, rows: Rows, options: PackOptions) -> Plan:
    """The plan. source: relative to the folder of the shards, so that both can be moved, and no one's path is told."""
    making = options.making
    chosen = {
        "size": making.size,
        "quality": making.quality,
        "verify": making.verify,
        "samples-per-shard": options.samples,
        "shard-size": options.size,
        "seed": options.seed,
        "limit": options.limit,
    }
    return {
        "version": state.VERSION,
        "source": source,
        "kind": listing.title,
        "rows": [len(rows), rows.digest],
        "options": {name.replace("_", "-"): value for name, value in (chosen | options.reading).items()},
    }


def _make(out: Path) -> None:
    try:
        make_folder(out)
    except OSError as error:
        raise ValueError(f"{out} cannot be written to ({error.strerror}); give another folder with --out") from None


def _tars(out: Path) -> Iterator[Path]:
    return (path for path in out.iterdir() if path.name.endswith(".tar") and not path.name.startswith("."))


def _all_there(out: Path, finished: Finished) -> bool:
    sizes = {path.name: path.stat().st_size for path in _tars(out)}
    return sizes == {name: size for name, _, size in finished.shards} and (out / "shards.manifest").is_file()


def _refuse_others(out: Path) -> None:
    """Raises ValueError for tars in the folder that no pack has put there: a run would read them too."""
    digits = [path.name for path in _tars(out) if not path.name.removesuffix(".tar").isdigit()]
    if state.read(out) is None:
        digits = [path.name for path in _tars(out)]
    if digits:
        raise ValueError(f"{out} holds other tar files ({few(sorted(digits))}); give a folder of its own with --out")


def _removed(out: Path) -> bool:
    """Remove what an earlier pack left in the folder, and nothing else. Returns True."""
    if state.read(out) is None:
        return True
    for path in list(_tars(out)):
        if path.name.removesuffix(".tar").isdigit():
            for each in (path, *(path.with_name(path.name + suffix) for suffix in (".idx", ".cap"))):
                each.unlink(missing_ok=True)
    for name in (*INDEX[:2], finish.SKIPPED):
        (out / name).unlink(missing_ok=True)
    for record in (out / UNITS).glob("[0-9]*"):
        record.unlink()
    (out / state.NAME).unlink()
    return True
