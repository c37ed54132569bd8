"""Time to the first batch, and memory, against the number of samples; and memory against the number of batches.

Each cell is a node's ranks as fresh processes with their workers, on a faked set (fake.py). Seconds run from the start
of a rank's process until it has a batch, imports included, and the slowest rank counts; memory is read when the workers
have their batches ready, of all ranks and workers together. What a cell holds above the same ranks on the smallest set
(a shard, or a shard for each worker where the peer asks for that) is what the number of samples costs: the libraries,
the first batches and the buffers are in both.

The peers yield their samples as stored; silc decodes, resizes and tokenises, as in training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.data import fake
from benchmarks.data.fake import PairSet
from benchmarks.data.processes import Ended, Ranks
from benchmarks.data.streams import Spec

BATCH = 64  # samples a rank
EVERY = 500  # batches from look to look


@dataclass(frozen=True)
class Plan:
    """samples: of each set. nodes: (ranks, workers a rank). pythons: interpreter of each provider, in the order of the
    tables. timeout: seconds for the first batch. memory_gib: for all processes of a cell.
    """

    samples: Sequence[int]
    nodes: Sequence[tuple[int, int]]
    pythons: dict[str, str]
    peer: str | None
    per_shard: int = 10_000
    timeout: float = 900.0
    memory_gib: float = 8.0
    batches: int = 10_000


@dataclass(frozen=True)
class Start:
    """A cell. seconds: to the first batch of every rank; imports: of them, for imports; processor: seconds of all
    processes until then, which a busy machine disturbs less. MiB; above: over the smallest set. note: why there are no
    numbers.
    """

    provider: str
    samples: int
    shards: int
    ranks: int
    workers: int
    seconds: float | None = None
    imports: float | None = None
    processor: float | None = None
    uss: float | None = None
    pss: float | None = None
    held: float | None = None
    peak: float | None = None
    above: float | None = None
    peak_above: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Flat:
    """Memory held (MiB) by one rank with its workers, every EVERY batches; slope: MiB in 1,000 batches over the second
    half.
    """

    provider: str
    samples: int
    workers: int
    batches: list[int]
    held: list[float]
    slope: float


def starts(plan: Plan, folder: Path) -> Iterator[Start]:
    """Every cell as it is measured: for each size and node all providers, one after the other."""
    real = fake.originals(folder / "originals", _originals(plan), plan.per_shard, plan.peer)
    smallest: dict[tuple[str, int, int], Start] = {}
    for ranks, workers in plan.nodes:
        for provider, python in plan.pythons.items():
            shards = ranks * max(1, workers) if provider == "webdataset" else 1
            made = fake.fake_set(folder / "smallest", shards, real)
            start = measure(provider, python, made, ranks, workers, plan)
            fake.remove(folder / "smallest")
            smallest[provider, ranks, workers] = start
            yield start
    for samples in plan.samples:
        made = fake.fake_set(folder / str(samples), -(-samples // plan.per_shard), real)
        for ranks, workers in plan.nodes:
            for provider, python in plan.pythons.items():
                start = measure(provider, python, made, ranks, workers, plan)
                yield _above(start, smallest[provider, ranks, workers])
        fake.remove(folder / str(samples))


def _originals(plan: Plan) -> int:
    return max(1, *(-(-samples // plan.per_shard // fake.LINKS) for samples in plan.samples))


def measure(provider: str, python: str, made: PairSet, ranks: int, workers: int, plan: Plan) -> Start:
    """One cell."""
    start = Start(provider, made.samples, made.shards, ranks, workers)
    if provider == "webdataset" and made.shards < ranks * workers:
        return replace(start, note="fewer shards than workers")
    specs = [spec_of(provider, made, rank, ranks, workers) for rank in range(ranks)]
    with Ranks(python, specs, plan.memory_gib) as processes:
        try:
            said, peak = processes.first(plan.timeout)
        except Ended as ended:
            return replace(start, note=str(ended))
        processor = processes.used().processor
        processes.settle()
        memory = processes.memory()
    return replace(
        start,
        seconds=max(answer["first"] for answer in said),
        imports=max(answer["imported"] for answer in said),
        processor=processor,
        uss=memory.uss,
        pss=memory.pss,
        held=memory.held,
        peak=max(peak, memory.held),
    )


def spec_of(provider: str, made: PairSet, rank: int, ranks: int, workers: int) -> Spec:
    """What a rank reads when it starts: silc as it trains, the peers as stored."""
    kind = "pixels" if provider == "silc" else "bytes"
    mds = None if made.mds is None else str(made.mds)
    return Spec(provider, str(made.tars), made.shards, mds, BATCH, rank, ranks, workers, kind, faked=True)


def _above(start: Start, smallest: Start) -> Start:
    if start.held is None or start.peak is None or smallest.held is None or smallest.peak is None:
        return start
    return replace(start, above=start.held - smallest.held, peak_above=start.peak - smallest.peak)


def flatness(plan: Plan, folder: Path, samples: int, workers: int, shards: int = 64) -> Iterator[Flat]:
    """Memory over plan.batches batches of each provider on a set of `samples`.

    shards: originals of the set, whose captions all have a word of their own: what a tokenizer remembers shows.
    """
    real = fake.originals(
        folder / "flat_originals", min(shards, -(-samples // plan.per_shard)), plan.per_shard, plan.peer
    )
    made = fake.fake_set(folder / "flat", -(-samples // plan.per_shard), real)
    for provider, python in plan.pythons.items():
        with Ranks(python, [spec_of(provider, made, 0, 1, workers)], plan.memory_gib) as processes:
            processes.first(plan.timeout)
            looks: list[float] = []
            counts = list(range(EVERY, plan.batches + 1, EVERY))
            for _ in counts:
                processes.ask(f"take {EVERY}")
                processes.settle()
                looks.append(processes.memory().held)
        yield Flat(provider, made.samples, workers, counts, looks, slope(counts, looks))
    fake.remove(folder / "flat")
    fake.remove(folder / "flat_originals")


def slope(batches: Sequence[int], mib: Sequence[float]) -> float:
    """MiB in 1,000 batches, by least squares over the second half of the looks."""
    half = len(batches) // 2
    if len(batches) - half < 2:
        return float("nan")
    return float(np.polyfit(batches[half:], mib[half:], 1)[0] * 1000)
