"""Checking a list of shards: in parallel, continued where an earlier check was interrupted, and summed up."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from silc.data.shards import pool
from silc.data.shards.build import FAILURES, MOST_PROCESSES, Progress
from silc.data.shards.errors import shorten
from silc.data.shards.places import LOCK, Say, cache_of, made, only_one
from silc.data.survey import repeats
from silc.data.survey.addresses import Named, indexed
from silc.data.survey.examine import Examined, Job, Settings, examine_shards, key_at, shard_and_offset
from silc.data.survey.journal import HASHES, Journal
from silc.data.survey.repeats import Repeats
from silc.data.survey.tally import Tally
from silc.errors import RunStopped, StoreFailed
from silc.storage import is_remote, name_of, open_store

VERSION = 1  # of the journal
EXAMPLES = 5  # keys named for each reason
GROUPS = 5  # repeated images, pairs and captions named
FEW_SHARDS = 2  # fewer are checked by this process
MANY = 5_000_000  # samples whose repeats take a while to count
Note = Callable[[str, str, str], None]
"""Told the address of a shard, a key in it (empty: the shard itself) and what is wrong; in the order of the shards, of
which those that could not be read come first."""


@dataclass
class Findings:
    """What a check found.

    Attributes:
        shards: that were checked.
        size: of them, in bytes.
        samples: in them, lost ones included.
        whole: that training can use.
        damaged: with one fault or more.
        lost: that cannot be used because of how they were packed.
        faults: damaged and lost samples by reason; one may have two.
        examples: shard/key of some of each reason.
        unreadable: (address, why) of shards that could not be read.
        cut: addresses of shards that are damaged, or go on behind their end mark.
        notes: (address, what is odd) of shards.
        unnamed: damaged samples that are counted, but too many in one shard to be named.
        captions: of the whole samples.
        json: whole samples whose caption is JSON; training refuses a set where most are.
        tally: of their images.
        repeats: of "images", "pairs" and "texts" (captions, equal but for case and white space).
        repeated: of each, (times, first place, last place) as words.
    """

    shards: int = 0
    size: int = 0
    samples: int = 0
    whole: int = 0
    damaged: int = 0
    lost: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    unnamed: int = 0
    captions: int = 0
    json: int = 0
    tally: Tally = field(default_factory=Tally)
    repeats: dict[str, Repeats] = field(default_factory=dict)
    repeated: dict[str, list[tuple[int, str, str]]] = field(default_factory=dict)

    @property
    def sound(self) -> bool:
        """Whether training can use every sample."""
        return self.whole == self.samples and not (self.unreadable or self.cut or self.refused)

    @property
    def refused(self) -> bool:
        """Whether training refuses these captions, being JSON."""
        return 2 * self.json > self.whole


def check(
    named: Named,
    settings: Settings,
    *,
    jobs: int | None = None,
    progress: Progress | None = None,
    note: Note = lambda *_: None,
    say: Say = lambda _: None,
) -> Findings:
    """Check shards: read and decode every sample as training does.

    What is found is kept in the cache until the check ends, so that the next one for the same shards and settings goes
    on from there: about 75 bytes a sample, and a third more while repeats are counted.

    Args:
        named: the shards.
        settings: what is read of a sample.
        jobs: processes; None: one a processor, at most MOST_PROCESSES.
        progress: told after each shard.
        note: told of each damaged sample and shard, when all are checked.
        say: told when another check is waited for, and what is continued.

    Raises:
        ValueError: the cache cannot be written to.
        RunStopped: the disk of the cache is full, FAILURES shards in a row failed because of their store, or a process
            was killed.
    """
    addresses = named.addresses
    digest = hashlib.sha256("\n".join(addresses).encode("utf-8", "surrogateescape")).hexdigest()
    made_for = [str(VERSION), digest, *map(str, settings)]
    folder = made(cache_of("check", *made_for))
    waits = "another check of the same shards is running, waiting for it"
    with only_one(Path(folder) / LOCK, lambda _: say(waits)):
        while True:
            journal = Journal(folder / "found", made_for)
            try:
                if len(journal):
                    say(f"going on after {len(journal):,} shards that an earlier check has done")
                failed = _examine(named, settings, journal, jobs, progress)
                if failed is None:
                    say("shards have changed since then; starting from the beginning")
                    journal.remove()
                    continue
                findings = _summed(addresses, journal, failed, note)
                if findings.whole > MANY:
                    say("counting what comes again; this takes some seconds for each million samples")
                _count_repeats(addresses, settings, journal.folder, findings)
            finally:
                journal.close()
            journal.remove()
            break
    if not any(folder.iterdir()):
        folder.rmdir()
    return findings


def _examine(
    named: Named,
    settings: Settings,
    journal: Journal,
    jobs: int | None,
    progress: Progress | None,
) -> dict[int, str] | None:
    """Fill the journal. Returns the shards that could not be read, and why; None where one has changed that was done.

    Raises RunStopped.
    """
    work = list(_jobs(named, settings, journal))
    failed: dict[int, str] = {}
    failures = samples = size = 0
    for done, found in enumerate(pool.done(examine_shards, work, processes(len(work), jobs), handful=1), 1):
        failures = failures + 1 if found.failed else 0
        if failures == FAILURES:
            raise RunStopped(f"{found.wrong}; what is done is kept: start again when that is mended")
        before = journal.known(found.number)
        if before is not None and not (found.kept or found.failed):
            return None
        if before is None and found.wrong:
            failed[found.number] = found.wrong
        elif before is None:
            journal.add(found)
        samples, size = samples + found.samples, size + (found.stat.size if found.stat else 0)
        if progress is not None:
            progress(done, len(work), samples, size)
    return failed


def _jobs(named: Named, settings: Settings, journal: Journal) -> Iterator[Job]:
    remote = [address for address in named.addresses if is_remote(address)]
    rows = indexed(Named(remote, named.manifests), settings.images) if remote else {}
    for number, address in enumerate(named.addresses):
        row = rows.get(address)
        sidecar, lost, samples = (None, {}, 0) if row is None else (row.sidecar, dict(row.lost), row.samples)
        yield Job(number, address, journal.known(number), sidecar, lost, samples, settings)


def processes(shards: int, jobs: int | None) -> int:
    """How many processes decode; 0: this one does."""
    number = min(jobs or min(len(os.sched_getaffinity(0)), MOST_PROCESSES), shards)
    return 0 if number < FEW_SHARDS else number


def _summed(addresses: Sequence[str], journal: Journal, failed: dict[int, str], note: Note) -> Findings:
    """All shards together, in their order, whatever the order in which they were done."""
    result = Findings(shards=len(addresses))
    result.unreadable = [(addresses[number], why) for number, why in sorted(failed.items())]
    for number, why in sorted(failed.items()):
        note(addresses[number], "", why)
    for found in journal.read():
        _add(result, addresses[found.number], found, note)
    return result


def _add(result: Findings, address: str, found: Examined, note: Note) -> None:
    lost = sum(found.lost.values())
    result.size += found.stat.size if found.stat else 0
    result.samples += found.samples + lost
    result.damaged += found.damaged
    result.lost += lost
    result.whole += found.samples - found.damaged
    result.faults.update(found.faults)
    result.faults.update(found.lost)
    result.captions += found.captions
    result.json += found.json
    result.tally.update(found.tally)
    result.notes += [(address, words) for words in found.notes]
    if found.cut:
        result.cut.append(address)
    for words in found.notes if found.cut else ():
        note(address, "", words)
    stem = name_of(address).removesuffix(".tar")
    for key, reason in found.named:
        shown = result.examples.setdefault(reason, [])
        if len(shown) < EXAMPLES:
            shown.append(shorten(f"{stem}/{key}"))
        note(address, key, reason)
    listed = Counter(reason for _, reason in found.named)
    result.unnamed += sum(max(0, count - listed[reason]) for reason, count in found.faults.items())


def _count_repeats(addresses: Sequence[str], settings: Settings, folder: Path, result: Findings) -> None:
    """Raises RunStopped where the disk is full."""
    store = open_store(patience=pool.PATIENCE)
    try:
        for name in HASHES:
            found = repeats.count(folder / name, GROUPS)
            result.repeats[name] = found
            result.repeated[name] = [
                (times, _named(addresses, settings, first, store), _named(addresses, settings, last, store))
                for times, first, last in found.most
            ]
    except OSError as error:
        raise RunStopped(
            f"{folder} could not be written: {error.strerror}; make room there, or set SILC_CACHE to another folder, "
            "and start again"
        ) from error
    finally:
        store.close()


def _named(addresses: Sequence[str], settings: Settings, place: int, store: pool.Store) -> str:
    number, offset = shard_and_offset(place)
    try:
        return shorten(key_at(Job(number, addresses[number], None, None, {}, 0, settings), offset, store))
    except (OSError, ValueError, StoreFailed):  # gone or changed in the meantime
        return shorten(f"{name_of(addresses[number]).removesuffix('.tar')}/?")
