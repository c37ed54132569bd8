"""Making the index of a list of shards: a sidecar beside each, and their manifest.

Shards are read in parallel. What an earlier index knows of a shard that has not changed is kept. A build that ends
early, in any way, is continued by the next one: sidecars are whole or absent, and the rows of the manifest are noted in
a journal as they come.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from silc.data.shards import imports, pool
from silc.data.shards.errors import shorten
from silc.data.shards.indexing import Job, index_shards
from silc.data.shards.manifest import NAME, Manifest, Row
from silc.data.shards.manifest_file import LIMIT, check_name, line, packed, parse_rows, parsed, prefix_of
from silc.data.shards.places import cache_of, made
from silc.errors import RunStopped
from silc.files import check_regular
from silc.storage import is_remote, put, read_whole, stat

IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif")
JOURNAL = f".{NAME}.part"
FAILURES = 16  # shards in a row that a store or disk fails for, before the build stops
ALONE = 16  # local shards that are indexed in less time than other processes take to start
MOST_PROCESSES = 16
_JOURNAL_LIMIT = 2 * LIMIT

Progress = Callable[[int, int, int, int], None]
"""Shards done, shards in all, samples found, bytes of the shards done."""


@dataclass
class Built:
    """What a build did.

    Attributes:
        manifest: None where shards that cannot be indexed keep it from being written.
        path: address of the manifest.
        how: number of shards by what was done: kept, compared, taken, read.
        bad: name of a shard that cannot be indexed, and why.
        gone: names of shards that an earlier index has and this one has not.
        lost: samples that cannot be used, by reason, of each shard that has any.
        notes: sentences about damage, and about counts that differ.
    """

    path: str
    manifest: Manifest | None = None
    how: Counter[str] = field(default_factory=Counter)
    bad: list[tuple[str, str]] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    lost: dict[str, Mapping[str, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def build(
    addresses: Sequence[str],
    out: str,
    *,
    caption: str | None = None,
    images: Sequence[str] = IMAGES,
    jobs: int | None = None,
    force: bool = False,
    skip_bad: bool = False,
    energon: bool = False,
    keep: bool = False,
    earlier: Manifest | None = None,
    counts: Mapping[str, tuple[int, str]] | None = None,
    progress: Progress | None = None,
) -> Built:
    """Index shards.

    Args:
        addresses: of the shards, all local or all in one store.
        out: folder of the manifest and the sidecars, with its last slash.
        caption: where the captions to hash are, for data.unique_captions, see :class:`CaptionKey`; None: as before,
            or none.
        images: extensions of images.
        jobs: processes; None: one a processor.
        force: read every shard again.
        skip_bad: leave shards out that cannot be indexed.
        energon: take over the offsets that megatron-energon left beside the shards.
        keep: keep the rows that the manifest in `out` has of other shards.
        earlier: another index of some of the shards.
        counts: samples that another program counted in a shard, by address, and where it says so.
        progress: told after each few shards.

    Raises:
        ValueError: a name that cannot be indexed, shards in several stores, a folder that cannot be written to.
        RunStopped: a store or disk fails, or a process was killed; the next build goes on from there.
    """
    base = _base(addresses, out)
    root = out if base is None else base
    names = [address.removeprefix(root) for address in addresses]
    for name in names:
        check_name(name, root)
    built, before = Built(out + NAME), None
    try:
        before = read_manifest(out)
    except ValueError as error:
        built.notes.append(str(error))
    caption = caption or (before.caption if before is not None else None)
    journal = Journal(out, [base, caption, list(images)])
    try:
        known = {} if force else _known(before, earlier, journal, root, out, caption, images)
        # A store takes its time to say that something is absent.
        stats = not is_remote(root) or imports.stats_of(addresses[0], read_whole) is not None
        work = []
        for name in names:
            row, stem = known.get(name, (None, ""))
            counted = (counts or {}).get(root + name)
            job = Job(name, root + name, out + name, row, stem, caption, tuple(images), energon, counted, stats)
            work.append(job)
        rows = _collect(work, built, jobs, journal, progress)
        others = _others(before, root, names)
        if not keep:
            built.gone = [row.name for row in others]
        elif before is not None and before.caption == caption and set(images) <= set(before.images):
            rows |= {row.name: row for row in others}
        if built.bad and not skip_bad:
            return built
        order = sorted(rows) if keep else [name for name in names if name in rows]
        data = packed([rows[name] for name in order], base=base, caption=caption, images=images)
        built.manifest = parsed(data, built.path)
        with _or_stop(built.path):
            put(built.path, data)
        journal.remove()
    finally:
        journal.close()
    return built


def read_manifest(out: str) -> Manifest | None:
    """The manifest in a folder (its address, with the last slash); None where there is none.

    Raises ValueError where it is damaged.
    """
    if stat(out + NAME) is None:
        return None
    return parsed(read_whole(out + NAME, LIMIT), out + NAME)


def _base(addresses: Sequence[str], out: str) -> str | None:
    """The folder that all shards lie in; None: that is `out`. Raises ValueError where there is none."""
    if all(address.startswith(out) for address in addresses):
        return None
    # What the first and the last in order share, all share.
    first, last = prefix_of(min(addresses)), prefix_of(max(addresses))
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    base = prefix_of(first[:same])
    if base.count("/") < (3 if is_remote(addresses[0]) else 1):
        raise ValueError(
            f"{shorten(addresses[0])} and {shorten(addresses[-1])} are in different stores; index each store by itself"
        )
    return base


def _known(
    before: Manifest | None,
    earlier: Manifest | None,
    journal: Journal,
    root: str,
    out: str,
    caption: str | None,
    images: Sequence[str],
) -> dict[str, tuple[Row, str]]:
    """For shards that an index knows: its row, and the address of its sidecars without their suffixes."""
    known: dict[str, tuple[Row, str]] = {}
    for manifest in (earlier, before):
        if manifest is None or (caption is not None and manifest.caption != caption):
            continue
        if set(images) <= set(manifest.images):
            for number, row in enumerate(manifest.rows()):
                name = row.name.removeprefix(root)
                known[name] = row._replace(name=name), manifest.stem(number)
    return known | {row.name: (row, out + row.name) for row in journal.rows}


def _others(before: Manifest | None, root: str, names: Sequence[str]) -> list[Row]:
    """Rows of an earlier manifest for other shards than these."""
    if before is None:
        return []
    mine = set(names)
    rows = (row._replace(name=row.name.removeprefix(root)) for row in before.rows())
    return [row for row in rows if row.name not in mine]


def _collect(
    work: Sequence[Job], built: Built, jobs: int | None, journal: Journal, progress: Progress | None
) -> dict[str, Row]:
    """The rows of all shards that can be indexed, by name, and rows without samples for the others that are there.

    Raises RunStopped where FAILURES shards fail one after the other for the sake of the store.
    """
    rows: dict[str, Row] = {}
    failures = samples = size = 0
    number = processes(len(work), jobs, remote=any(map(is_remote, (built.path, *(job.address for job in work[:1])))))
    for done, outcome in enumerate(pool.done(index_shards, work, number), 1):
        built.notes += outcome.notes
        failures = failures + 1 if outcome.failed else 0
        if failures == FAILURES:
            raise RunStopped(f"{outcome.wrong}; what is done is kept: start again when that is mended")
        if outcome.wrong:
            built.bad.append((outcome.name, outcome.wrong))
        elif outcome.row is not None:
            built.how[outcome.how] += 1
            journal.note(outcome.row)
            if lost := json.loads(outcome.row.details).get("lost"):
                built.lost[outcome.name] = lost
        if outcome.row is not None:
            rows[outcome.name] = outcome.row
            samples, size = samples + outcome.row.samples, size + outcome.row.size
        if progress is not None:
            progress(done, len(work), samples, size)
    built.bad.sort()
    built.notes.sort()
    return rows


def processes(shards: int, jobs: int | None, *, remote: bool) -> int:
    """How many processes read shards; 0: this one does."""
    if shards < ALONE and not remote:
        return 0
    return min(jobs or min(len(os.sched_getaffinity(0)), MOST_PROCESSES), max(1, shards))


@contextmanager
def _or_stop(path: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunStopped(
            f"{path} could not be written: {error.strerror}; make room there and start again, what is done is kept"
        ) from error


class Journal:
    """The rows of a build that has not ended yet, one a line behind a line that tells for what they were made.

    It lies in the folder of the manifest, or in the cache where that is remote.

    Raises ValueError where it cannot be written.
    """

    def __init__(self, out: str, made_for: list[Any]) -> None:
        self._path = Path(out) / JOURNAL if not is_remote(out) else made(cache_of(out)) / JOURNAL
        self._head = json.dumps(made_for) + "\n"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self.rows = self._read()
            self._file = self._path.open("a" if self.rows else "w", encoding="utf-8", errors="surrogateescape")
            if not self.rows:
                self._file.write(self._head)
        except OSError as error:
            raise ValueError(
                f"{self._path.parent} cannot be written to ({error.strerror}); give a folder for the index with --out"
            ) from None

    def _read(self) -> list[Row]:
        try:
            check_regular(self._path, _JOURNAL_LIMIT)
            head, _, rest = self._path.read_bytes().partition(b"\n")
        except (FileNotFoundError, ValueError):
            return []
        return parse_rows(rest) if head.decode("utf-8", "replace") + "\n" == self._head else []

    def note(self, row: Row) -> None:
        """Keep a row; what was noted outlives the process."""
        with _or_stop(self._path):
            self._file.write(line(row))
            self._file.flush()

    def close(self) -> None:
        """Stop writing; what was noted stays."""
        with suppress(OSError):  # of a full disk, which was told before
            self._file.close()

    def remove(self) -> None:
        """Forget the rows: the manifest has them."""
        self._path.unlink(missing_ok=True)
