"""The order of samples is the same whatever reads it.

    python -m tests.soak.order [--quick]

1. Two passes by one process: every key once a pass.
2. The first, some middle and the last batches of the two passes, keys, crops and tokens, at 1, 2, 3, 5 and 8 ranks, 0,
   1 and 4 workers, forked, from a fork server and spawned, from a disk, an S3 and an HTTP server: as in 1.
3. Three weighted sources: after every block each has given its share of the samples so far, to less than one sample;
   and each of its keys as often as any other, to one.

Every reading is a process of its own, as a run is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from silc.data import build_loader
from tests.soak.common import BATCH, Table, config, finish, write_set
from tests.soak.served import Place, index, places, run

RANKS, WORKERS = (1, 2, 3, 5, 8), (0, 1, 4)
WEIGHTS = (0.7, 0.25, 0.05)
BLOCK = 1024


@dataclass(frozen=True)
class Reading:
    """One way to read some batches: place is a folder or address; windows are (first batch, batches)."""

    place: str
    ranks: int
    workers: int
    start: str
    windows: list[tuple[int, int]]


def digests(reading: Reading) -> list[list[str]]:
    """For each window, a digest of every global batch: the ranks' keys, crops and tokens, joined in order."""
    found = []
    for first, count in reading.windows:
        ways = [[hashlib.blake2b(digest_size=8) for _ in range(3)] for _ in range(count)]
        for rank in range(reading.ranks):
            run = config([reading.place], workers=reading.workers, worker_start=reading.start, shuffle_block=BLOCK)
            loader = build_loader(run, rank=rank, world=reading.ranks, start_position=first * BATCH)
            for (keys, crops, tokens), batch in zip(ways, islice(loader, count), strict=True):
                keys.update("\n".join([*batch.keys, ""]).encode())
                crops.update(batch.large.numpy())
                tokens.update(batch.tokens.numpy())
        found.append(["".join(part.hexdigest() for part in way) for way in ways])
    return found


def elsewhere(reading: Reading, environment: dict[str, str] | None = None) -> list[list[str]]:
    """The digests, computed in a fresh process. Raises RuntimeError."""
    done = run("-m", "tests.soak.order", "--read", json.dumps(asdict(reading)), environment=environment)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def readings(windows: list[tuple[int, int]], found: list[Place], quick: bool) -> Iterator[tuple[Place, Reading]]:
    """All that is compared. Spawned workers take seconds each to start: one window, and few of them."""
    disk, *servers = found
    ranks_tried, workers_tried = ((1, 3), (0, 1)) if quick else (RANKS, WORKERS)
    ways = [(ranks, workers, "fork" if workers else "auto") for ranks in ranks_tried for workers in workers_tried]
    if not quick:
        ways += [(2, 4, "forkserver"), (5, 1, "forkserver"), (2, 1, "spawn"), (3, 4, "spawn")]
    for way in ways:
        yield disk, _reading(disk, windows, *way)
    for server in servers:
        ways = [(1, 0, "auto"), (3, 1, "auto"), (8, 1, "forkserver"), (2, 4, "spawn")]
        for way in ways[:1] if quick else ways:
            yield server, _reading(server, windows, *way)


def _reading(place: Place, windows: list[tuple[int, int]], ranks: int, workers: int, start: str) -> Reading:
    return Reading(place.shards, ranks, workers, start, windows[1:2] if start == "spawn" else windows)


def check_readings(folder: Path, quick: bool) -> Table:
    """Parts 1 and 2."""
    counts = [50, 31, 120] if quick else [2900, 4100, 1, 3777, 5000, 640, 3583, 4999]
    samples = write_set(folder, counts)
    batches = 2 * samples // BATCH
    length = 2 if quick else 100
    windows = [(0, length), (batches // 2 - length // 2, length), (batches - length, length)]
    title = (
        f"{samples:,} samples, batch {BATCH}, two passes of {samples / BATCH:.1f} batches; digests of windows {windows}"
    )
    table = Table(title, ("place", "ranks", "workers", "start", "differing batches"), (6, 6, 8, 10, 18))
    keys: list[str] = []
    for batch in islice(build_loader(config([str(folder)], shuffle_block=BLOCK), rank=0, world=1), batches + 1):
        keys += batch.keys
    once = all(len(set(keys[first : first + samples])) == samples for first in (0, samples))
    table.row("disk", 1, 0, "-", "every key once" if once else "keys missing", holds=once)
    expected = elsewhere(Reading(str(folder), 1, 0, "auto", [(0, batches)]))[0]
    index(folder)
    with places(folder) as found:
        for place, reading in readings(windows, found, quick):
            differing = sum(
                one != other
                for (first, count), window in zip(reading.windows, elsewhere(reading, place.environment), strict=True)
                for one, other in zip(window, expected[first : first + count], strict=True)
            )
            table.row(place.name, reading.ranks, reading.workers, reading.start, differing, holds=not differing)
    return table


def check_mixture(folder: Path, quick: bool) -> Table:
    """Part 3."""
    counts = [[61, 52], [30], [9]] if quick else [[4001, 3000, 2999], [1500, 700], [333]]
    names = [f"source{number}" for number in range(len(counts))]
    for name, shards in zip(names, counts, strict=True):
        write_set(folder / name, shards, f"{name}_")
    block = BLOCK // 8 if quick else BLOCK
    block = -(-block // BATCH) * BATCH  # whole global batches
    blocks = 4 if quick else 60
    run = config(
        sources=[(str(folder / name), weight) for name, weight in zip(names, WEIGHTS, strict=True)], shuffle_block=block
    )
    title = f"sources of weights {WEIGHTS}, blocks of {block}"
    table = Table(title, ("block", "drift (samples)", "uneven keys"), (6, 30, 12))
    seen: list[Counter[str]] = [Counter() for _ in names]
    batches = iter(build_loader(run, rank=0, world=1))
    for number in range(blocks):
        for batch in islice(batches, block // BATCH):
            for key in batch.keys:
                seen[int(key[len("source")])][key] += 1
        position = (number + 1) * block
        drifts = [sum(each.values()) - weight * position for each, weight in zip(seen, WEIGHTS, strict=True)]
        uneven = sum(_uneven(each, sum(size)) for each, size in zip(seen, counts, strict=True))
        holds = all(abs(drift) < 1 for drift in drifts) and not uneven
        if not holds or number % 10 == 9 or number == blocks - 1:
            table.row(number, " ".join(f"{drift:+.2f}" for drift in drifts), uneven, holds=holds)
    return table


def _uneven(seen: Counter[str], samples: int) -> int:
    """Keys that came more or less often than a source of `samples` that goes round has to give them."""
    whole, rest = divmod(sum(seen.values()), samples)
    often = sum(count == whole + 1 for count in seen.values())
    strange = sum(count not in (whole, whole + 1) for count in seen.values())
    return strange + abs(often - rest) + (samples - len(seen) if whole else 0)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sets and few ways, to see that it runs")
    parser.add_argument("--read", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.read:
        print(json.dumps(digests(Reading(**json.loads(args.read)))))
        return
    with tempfile.TemporaryDirectory() as name:
        tables = [check_readings(Path(name) / "set", args.quick), check_mixture(Path(name) / "mix", args.quick)]
    finish(*tables)


if __name__ == "__main__":
    main()
