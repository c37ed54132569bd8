"""Samples a second, and bytes read for each byte used, of streams over the same pairs on the local disk.

Correct first: in one pass each stream must give every sample once, its bytes as they were written. Then all providers
are open at once and take turns: `bytes` compares the streams alone, `pixels` adds the same decoding, resizing and
tokenising to each. Turns begin and end with full queues and resting workers, so that the processor time of a turn is
that of its samples; the clock starts after the batches that were ready have been taken.

`cold` takes some batches after the files were dropped from the page cache: what the disk then delivers, read-ahead
too, shows how far from one another a stream's reads are. Most of the set stays unread, as it would at web scale.
"""

from __future__ import annotations

import os
import statistics
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.data.fake import PairSet
from benchmarks.data.pairs import read_tar
from benchmarks.data.processes import Ranks, Used
from benchmarks.data.streams import PREFETCH, Spec


@dataclass(frozen=True)
class Plan:
    """warm: batches of each worker before anything is timed: webdataset reads two samples for each it gives until its
    buffer is full. batches: in each turn, after those that were ready. turns: of each provider.
    """

    pythons: dict[str, str]
    workers: Sequence[int] = (0, 1, 2)
    kinds: Sequence[str] = ("bytes", "pixels")
    batch: int = 64
    side: int = 224
    warm: int = 65
    batches: int = 30
    turns: int = 5
    cold_batches: int = 64


@dataclass(frozen=True)
class Rate:
    """kind: bytes, pixels or cold. per_second: samples, median of the turns, with the slowest and the fastest; ms:
    processor time of a sample, all processes. read, disk: bytes that read calls returned, and that the disk delivered,
    over bytes of images and captions used. ratio: ours over this provider's per_second.
    """

    provider: str
    kind: str
    workers: int
    per_second: float
    slowest: float
    fastest: float
    ms: float
    read: float
    disk: float
    ratio: float | None = None


@dataclass(frozen=True)
class Source:
    """What was written: checksum of each sample's image and caption, and their bytes on average."""

    crcs: dict[str, int]
    mean: float


def source_of(made: PairSet) -> Source:
    """Read with tarfile."""
    crcs, total = {}, 0
    for path in made.paths:
        for pair in read_tar(Path(path)):
            crcs[pair.key] = zlib.crc32(pair.image + pair.caption)
            total += len(pair.image) + len(pair.caption)
    return Source(crcs, total / len(crcs))


def gate(provider: str, python: str, made: PairSet, source: Source, plan: Plan) -> str:
    """Correct first: one pass gives every sample once, unchanged.

    Raises:
        ValueError: it does not; nothing is timed.
    """
    spec = replace(_spec(provider, made, plan, workers=2, kind="bytes"), endless=False)
    with Ranks(python, [spec]) as processes:
        processes.first(600)
        (said,) = processes.ask("check")
    got, twice = said["crcs"], said["twice"]
    missing, strange = source.crcs.keys() - got.keys(), got.keys() - source.crcs.keys()
    changed = [key for key, crc in got.items() if source.crcs.get(key, crc) != crc]
    if twice or missing or strange or changed:
        raise ValueError(
            f"{provider}: of {len(source.crcs)} samples {len(missing)} did not come, {len(twice)} came again, "
            f"{len(changed)} were changed and {len(strange)} are of another set; nothing is timed"
        )
    return f"  correct: {provider}: each of {len(got):,} samples once in a pass, its bytes as they were written"


def _spec(provider: str, made: PairSet, plan: Plan, workers: int, kind: str) -> Spec:
    mds = None if made.mds is None else str(made.mds)
    return Spec(provider, str(made.tars), made.shards, mds, plan.batch, workers=workers, kind=kind, side=plan.side)


def rates(plan: Plan, made: PairSet, source: Source) -> Iterator[Rate]:
    """Every kind and number of workers, all providers in turns; then `cold`."""
    for kind in plan.kinds:
        for workers in plan.workers:
            yield from _compared(_in_turns(plan, made, source, kind, workers))
    yield from _compared([_cold(provider, python, plan, made, source) for provider, python in plan.pythons.items()])


def _in_turns(plan: Plan, made: PairSet, source: Source, kind: str, workers: int) -> list[Rate]:
    found: dict[str, list[tuple[float, Used]]] = {provider: [] for provider in plan.pythons}
    with ExitStack() as stack:
        held = {
            provider: stack.enter_context(Ranks(python, [_spec(provider, made, plan, workers, kind)]))
            for provider, python in plan.pythons.items()
        }
        for processes in held.values():
            _warm_up(processes, plan, workers)
        for _ in range(plan.turns):
            for provider, processes in held.items():
                found[provider].append(_turn(processes, plan.batches, workers))
    samples = (plan.batches + _ready(workers)) * plan.batch
    rates = []
    for provider, turns in found.items():
        speeds = [plan.batches * plan.batch / seconds for seconds, _ in turns]
        rates.append(
            _rate(provider, kind, workers, speeds, [used for _, used in turns], samples * source.mean, samples)
        )
    return rates


def _warm_up(processes: Ranks, plan: Plan, workers: int) -> None:
    processes.first(600)
    processes.ask(f"take {plan.warm * max(1, workers)}")


def _ready(workers: int) -> int:
    return workers * PREFETCH + (1 if workers else 0)


def _turn(processes: Ranks, batches: int, workers: int) -> tuple[float, Used]:
    """Seconds of `batches`, and what those and the ones that were ready cost."""
    processes.settle()
    before = processes.used()
    if workers:
        processes.ask(f"take {_ready(workers)}")
    (said,) = processes.ask(f"take {batches}")
    processes.settle()
    return said["seconds"], processes.used() - before


def _rate(
    provider: str, kind: str, workers: int, speeds: list[float], used: list[Used], wanted: float, samples: int
) -> Rate:
    return Rate(
        provider,
        kind,
        workers,
        statistics.median(speeds),
        min(speeds),
        max(speeds),
        1e3 * statistics.median(each.processor for each in used) / samples,
        statistics.fmean(each.read for each in used) / wanted,
        statistics.fmean(each.disk for each in used) / wanted,
    )


def _cold(provider: str, python: str, plan: Plan, made: PairSet, source: Source) -> Rate:
    """Some batches of a set that is not in the page cache."""
    workers = max(plan.workers)
    with Ranks(python, [_spec(provider, made, plan, workers, "bytes")]) as processes:
        _warm_up(processes, plan, workers)
        drop(made)
        seconds, used = _turn(processes, plan.cold_batches, workers)
    samples = (plan.cold_batches + _ready(workers)) * plan.batch
    speed = plan.cold_batches * plan.batch / seconds
    return _rate(provider, "cold", workers, [speed], [used], samples * source.mean, samples)


def _compared(found: list[Rate]) -> list[Rate]:
    ours = next((rate.per_second for rate in found if rate.provider == "silc"), None)
    return [replace(rate, ratio=None if ours is None else ours / rate.per_second) for rate in found]


def drop(made: PairSet) -> None:
    """Take a set's files out of the page cache."""
    folders = [made.tars] if made.mds is None else [made.tars, made.mds]
    for path in (path for folder in folders for path in folder.iterdir()):
        with path.open("rb") as file:
            os.fsync(file.fileno())  # pages that are not yet written stay
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
