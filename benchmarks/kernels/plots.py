"""Time and peak memory of the contrastive loss against the batch, from a saved CSV.

python -m benchmarks.kernels.plots benchmarks/results/loss_cpu.csv      writes the PNG beside it
"""

from __future__ import annotations

import csv
import re
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OP = "contrastive_loss softmax"
PANELS = (("ms", "milliseconds, forward and backward"), ("peak_mib", "peak memory, MiB"))


def plot(table: Path) -> Path:
    """Draw the rows of the softmax loss in `table`. Raises ValueError if it has none."""
    with table.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["op"] == OP]
    if not rows:
        raise ValueError(f"{table} has no rows of {OP}; run benchmarks/loss_bench.py --save first")
    figure, axes = plt.subplots(1, len(PANELS), figsize=(10, 4), layout="constrained")
    for axis, (column, title) in zip(axes, PANELS, strict=True):
        lines: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for row in rows:
            lines[line(row)].append((batch(row["shape"]), float(row[column] or "nan")))
        for label, points in lines.items():
            axis.plot(*zip(*sorted(points), strict=True), marker="o", label=label)
        axis.set(xscale="log", yscale="log", xlabel="batch", title=title)
        axis.legend(fontsize=8)
    figure.suptitle(f"{OP}: {rows[0]['device']}, {rows[0]['date']}")
    path = table.with_suffix(".png")
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def line(row: dict[str, str]) -> str:
    """Which line a row is on: a rank of many with n pairs is another thing than one with the whole batch."""
    found = re.search(r"n=\d+", row["shape"])
    return f"{row['provider']}, {found[0]} a rank" if found else row["provider"]


def batch(shape: str) -> int:
    """The global batch in a shape such as "B=2048 d=512"."""
    return int(re.search(r"B=(\d+)", shape)[1])


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(f"written to {plot(Path(name))}")
