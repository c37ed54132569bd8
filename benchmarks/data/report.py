"""Tables and CSVs of the data benchmark."""

from __future__ import annotations

import csv
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.common.measure import commit, device
from benchmarks.data.crops import Cut
from benchmarks.data.remote import Remote
from benchmarks.data.startup import Flat, Start
from benchmarks.data.throughput import Rate
from benchmarks.train.report import machine

PACKAGES = ("torch", "numpy", "webdataset", "mosaicml-streaming", "obstore")
IMAGE_PACKAGES = ("torch", "torchvision", "numpy", "pillow", "simplejpeg", "lightly")
ASK = """
import sys
from importlib.metadata import PackageNotFoundError, version
for name in sys.argv[1:]:
    try:
        print(f"{name}=={version(name)}")
    except PackageNotFoundError:
        pass
"""


def versions(python: str, packages: Sequence[str] = PACKAGES) -> str:
    """Of the packages that are measured, in the environment of an interpreter."""
    told = subprocess.run([python, "-c", ASK, *packages], capture_output=True, text=True, check=True)
    return " ".join(told.stdout.split())


def where(pythons: dict[str, str], packages: Sequence[str] = PACKAGES) -> dict[str, dict[str, str]]:
    """The last columns of a provider's rows: device, versions, commit and date."""
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    common = {"device": machine(), "commit": commit(), "date": date}
    known = {python: versions(python, packages) for python in set(pythons.values())}
    return {provider: common | {"versions": known[python]} for provider, python in pythons.items()}


def save(rows: Sequence[dict[str, Any]], name: str, folder: Path) -> Path:
    """Write rows to FOLDER/NAME_DEVICE.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}_{device().type}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return path


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return " ".join(str(_cell(item)) for item in value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else value


def rows(measured: Iterable[Any], tails: dict[str, dict[str, str]]) -> list[dict[str, Any]]:
    """Measurements (dataclasses with a `provider`) as rows of a CSV."""
    return [asdict(each) | tails[each.provider] for each in measured]


START_COLUMNS = ("samples", "node", "first s", "imports s", "CPU s", "MiB", "above", "peak above", "USS", "PSS")


def start_header() -> str:
    """Heading of :func:`start_line`."""
    return f"{'':15s}" + "".join(f"{name:>12s}" for name in START_COLUMNS)


def start_line(start: Start) -> str:
    """A cell of the start-up benchmark."""
    node = f"{start.ranks}x{start.workers}"
    head = f"{start.provider:15s}{start.samples:12.2g}{node:>12s}"
    if start.note:
        return f"{head}  {start.note}"
    numbers = (
        start.seconds,
        start.imports,
        start.processor,
        start.held,
        start.above,
        start.peak_above,
        start.uss,
        start.pss,
    )
    return head + "".join(f"{'-' if n is None else f'{n:.1f}':>12s}" for n in numbers)


def flat_lines(flat: Flat) -> str:
    """A provider's memory over many batches."""
    looks = " ".join(f"{mib:.0f}" for mib in flat.held)
    return (
        f"{flat.provider}: {flat.slope:+.2f} MiB in 1,000 batches over the second half of {flat.batches[-1]:,} "
        f"({flat.workers} workers)\n    MiB: {looks}"
    )


RATE_COLUMNS = ("workers", "samples/s", "slowest", "fastest", "CPU ms", "read/used", "disk/used", "ours/this")


def rate_header() -> str:
    """Heading of :func:`rate_line`."""
    return f"{'':15s}{'':8s}" + "".join(f"{name:>11s}" for name in RATE_COLUMNS)


def rate_line(rate: Rate) -> str:
    """A row of the throughput benchmark."""
    numbers = f"{rate.workers:11d}{rate.per_second:11.0f}{rate.slowest:11.0f}{rate.fastest:11.0f}{rate.ms:11.3f}"
    ratio = "-" if rate.ratio is None else f"{rate.ratio:.2f}x"
    return f"{rate.provider:15s}{rate.kind:8s}{numbers}{rate.read:11.3f}{rate.disk:11.3f}{ratio:>11s}"


REMOTE_COLUMNS = ("ranks", "workers", "first s", "samples/s", "served/used")


def remote_header() -> str:
    """Heading of :func:`remote_line`."""
    return f"{'':15s}" + "".join(f"{name:>12s}" for name in REMOTE_COLUMNS)


def remote_line(row: Remote) -> str:
    """A row of the benchmark from an S3 server."""
    return (
        f"{row.provider:15s}{row.world:12d}{row.workers:12d}{row.first:12.1f}{row.per_second:12.0f}{row.served:12.3f}"
    )


CUT_COLUMNS = ("image", "images/s", "CPU ms", "wall ms", "this/ours", "PSNR dB")


def cut_header() -> str:
    """Heading of :func:`cut_line`."""
    return f"{'':16s}{'':24s}" + "".join(f"{name:>11s}" for name in CUT_COLUMNS)


def cut_line(cut: Cut) -> str:
    """A row of the benchmark of decoding and crops."""
    numbers = f"{cut.image:>11s}{cut.per_second:11.0f}{cut.ms:11.2f}{cut.wall_ms:11.2f}{f'{cut.ratio:.2f}x':>11s}"
    quality = "-" if cut.psnr is None else f"{cut.psnr:.1f}"
    return f"{cut.kind:16s}{cut.provider:24s}{numbers}{quality:>11s}"
