"""What the order of samples costs to read: ranges and bytes of a rank's share of a batch, simulated.

python -m benchmarks.data.locality                 the table, in a minute on one core
python -m benchmarks.data.locality --save          and write benchmarks/results/locality.csv
python -m benchmarks.data.locality --batches 10    fewer batches of each

140,000 shards of 10,000 samples, or of 1 to 20,000; all samples have one size. Samples that are neighbours in a shard
are one range. In the columns "merged" a reader also bridges gaps of up to --gap samples, and "bytes" is what it
then reads, in multiples of what is used; without that it is 1. "version 1" permutes the samples of a block of 8,192 one
by one, as the stream did before. p99 is over all ranks of all batches.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from benchmarks import RESULTS
from benchmarks.common.measure import commit
from silc.data.order import PassOrder
from silc.data.stream import CHUNKS_PER_BLOCK, SampleStream

BLOCK = 8192  # data.shuffle_block
CHUNKS = (32, 64, 128, 256)
CASES = ((16_384, 256), (4_096, 64), (32_768, 256), (16_384, 8), (1_024, 8))  # global batch, ranks
SHARDS = 140_000
WIDEST = 2**32  # more than the samples of a shard

Batches = Callable[[int], tuple[np.ndarray, np.ndarray]]
"""Number of a batch -> shard [batch], sample [batch] in the order in which ranks take their shares."""


@dataclass(frozen=True)
class Row:
    """Of one order at one size. merged_*, bytes_*: when gaps are bridged. *_shards: different ones, in the mean."""

    shards: str
    batch: int
    ranks: int
    order: str
    chunks: int
    ranges_mean: float
    ranges_p99: float
    merged_mean: float
    merged_p99: float
    bytes_mean: float
    bytes_p99: float
    batch_shards: float
    rank_shards: float


def shard_sizes(kind: str, shards: int = SHARDS) -> np.ndarray:
    """Samples of each shard, int64 [shards]; kind: "10,000" or "random"."""
    if kind == "random":
        return np.random.default_rng(0).integers(1, 20_001, shards)
    return np.full(shards, int(kind.replace(",", "")))


def version_2(counts: np.ndarray, batch: int, chunks: int = CHUNKS_PER_BLOCK) -> Batches:
    """The stream itself."""
    stream = SampleStream([counts], seed=0, block=BLOCK, batch=batch, chunks_per_block=chunks)
    return lambda number: stream.locate(number * batch, (number + 1) * batch)


def version_1(counts: np.ndarray, batch: int) -> Batches:
    """Chunks of a 32nd of a block, and every block's samples permuted one by one."""
    order = PassOrder(counts, BLOCK // 32, 0, 0)

    def take(number: int) -> tuple[np.ndarray, np.ndarray]:
        index = np.arange(number * batch // BLOCK * BLOCK, -(-(number + 1) * batch // BLOCK) * BLOCK)
        places = np.stack(order.locate(index, 0)).reshape(2, -1, BLOCK)
        mixed = np.concatenate(
            [np.random.default_rng(block).permutation(places[:, i], axis=1) for i, block in enumerate(index[::BLOCK])],
            axis=1,
        )
        at = number * batch - int(index[0])
        return mixed[0, at : at + batch], mixed[1, at : at + batch]

    return take


def measure(take: Batches, batches: int, ranks: int, gap: int) -> dict[str, float]:
    """The columns of a Row from `ranges_mean` on, over some batches spread over a pass."""
    found: dict[str, list[np.ndarray]] = {
        "ranges": [],
        "merged": [],
        "bytes": [],
        "batch_shards": [],
        "rank_shards": [],
    }
    for number in range(batches):
        shard, sample = take(number)
        places = np.sort((shard * WIDEST + sample).reshape(ranks, -1), axis=1)
        steps = np.diff(places, axis=1)
        bridged = (steps > 1) & (steps <= gap + 1)
        found["ranges"].append(1 + (steps > 1).sum(axis=1))
        found["merged"].append(1 + (steps > gap + 1).sum(axis=1))
        found["bytes"].append(1 + ((steps - 1) * bridged).sum(axis=1) / places.shape[1])
        found["rank_shards"].append(1 + (np.diff(places // WIDEST, axis=1) > 0).sum(axis=1))
        found["batch_shards"].append(np.array([len(np.unique(shard))]))
    columns = {name: np.concatenate(values) for name, values in found.items()}
    spread = {
        f"{name}_{kind}": float(value)
        for name in ("ranges", "merged", "bytes")
        for kind, value in (("mean", columns[name].mean()), ("p99", np.percentile(columns[name], 99)))
    }
    return spread | {name: float(columns[name].mean()) for name in ("batch_shards", "rank_shards")}


def table(batches: int, gap: int) -> list[Row]:
    """Every case, printed as it is found."""
    rows = []
    titles = ("ranges", "p99", "merged", "p99", "bytes", "p99", "shards of a batch", "of a rank")
    print(
        f"{'shards':>7s} {'batch':>6s} {'ranks':>5s}  {'order':9s} {'chunks':>6s} "
        + " ".join(map("{:>7s}".format, titles))
    )
    for kind in ("10,000", "random"):
        counts = shard_sizes(kind)
        for batch, ranks in CASES:
            orders = [("version 1", 32, version_1(counts, batch))]
            orders += [("version 2", chunks, version_2(counts, batch, chunks)) for chunks in CHUNKS]
            for name, chunks, take in orders:
                row = Row(kind, batch, ranks, name, chunks, **measure(take, batches, ranks, gap))
                rows.append(row)
                numbers = " ".join(f"{value:7.2f}" for value in list(asdict(row).values())[5:])
                print(f"{kind:>7s} {batch:6d} {ranks:5d}  {name:9s} {chunks:6d} {numbers}", flush=True)
    return rows


def save(rows: Sequence[Row], batches: int, gap: int, folder: Path) -> Path:
    """Write locality.csv below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "locality.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        columns = [*(field.name for field in fields(Row)), "gap", "batches", "commit", "date"]
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        about = {"gap": gap, "batches": batches, "commit": commit(), "date": datetime.now(UTC).date().isoformat()}
        for row in rows:
            line = asdict(row) | about
            writer.writerow({key: f"{value:.5g}" if isinstance(value, float) else value for key, value in line.items()})
    return path


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=50, help="simulated, of each case (default: 50)")
    parser.add_argument("--gap", type=int, default=4, help="samples that a reader bridges (default: 4)")
    parser.add_argument("--save", nargs="?", const=RESULTS, type=Path, metavar="FOLDER", help="write a CSV")
    args = parser.parse_args(argv)
    rows = table(args.batches, args.gap)
    if args.save:
        print(f"written to {save(rows, args.batches, args.gap, args.save)}")


if __name__ == "__main__":
    main(sys.argv[1:])
