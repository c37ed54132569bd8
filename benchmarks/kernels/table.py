"""The CSV of a kernel benchmark."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common.files import write_csv
from benchmarks.common.measure import device_slug

COLUMNS = (
    *("op", "shape", "provider", "dtype", "ms", "ms_p20", "ms_p80", "cpu_ms", "gb_per_s", "tflop_per_s"),
    *("roofline_percent", "peak_mib", "enqueue_ms", "host_ms", "graph_ms", "ratio"),
    *("device", "versions", "commit", "date"),
)


def save(name: str, records: Sequence[dict[str, object]], folder: Path) -> Path:
    """Write <name>_<device>.csv below `folder`."""
    path = folder / f"{name}_{device_slug()}.csv"
    write_csv(path, COLUMNS, ({key: written(value) for key, value in line.items()} for line in records))
    return path


def written(value: object) -> object:
    """As a CSV holds it; empty: not measured."""
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else f"{value:.5g}"


def earlier(name: str, folder: Path) -> list[dict[str, object]]:
    """The lines that an earlier run saved; none without one, or where it cannot be read, which is said."""
    path = folder / f"{name}_{device_slug()}.csv"
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines: list[dict[str, object]] = list(csv.DictReader(file))
        if any(set(line) != set(COLUMNS) or None in line.values() for line in lines):
            raise ValueError("not as many columns, or others")
    except (OSError, ValueError, csv.Error) as error:
        print(f"{path} cannot be read ({error}): begun afresh", flush=True)
        return []
    return lines
