"""Where and when a run was trained: claims.json in its folder, for pages that gather runs of several machines."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from silc.claims.plan import Run
from silc.files import read_json, write_text
from silc.version import __version__

NAME = "claims.json"
MAX_BYTES = 1 << 16
LONGEST = 200  # characters of a name


@dataclass(frozen=True)
class Origin:
    """Text of one line each. date: of the end, UTC, as 2026-11-27; machine: name of the GPU or the CPU."""

    date: str
    machine: str
    torch: str
    silc: str
    precision: str


def here(run: Run) -> Origin:
    """Of a run that ended on this machine just now."""
    precision = run.config.engine.precision
    return Origin(
        datetime.now(UTC).date().isoformat(), machine(), metadata.version("torch"), __version__, str(precision)
    )


def machine() -> str:
    """Name of this machine's GPU, else of its CPU, on which each run has one thread."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"{cpu_model()}, one thread a run"


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """As Linux has it; else the architecture."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names and names[0] else f"{platform.machine()} CPU"


def write(run: Run) -> None:
    """Note this machine and the day in the run's folder. Raises OSError."""
    write_text(run.folder / NAME, json.dumps(asdict(here(run)), indent=1) + "\n")


def read(run: Run) -> Origin | None:
    """What was noted; None for a run of which nothing was, or a file that is damaged."""
    try:
        found = read_json(run.folder / NAME, MAX_BYTES)
    except (OSError, ValueError):
        return None
    names = [field.name for field in fields(Origin)]
    if not isinstance(found, dict) or not all(isinstance(found.get(name), str) for name in names):
        return None
    return Origin(**{name: found[name][:LONGEST] for name in names})


def sentence(origins: Iterable[Origin], seeds: Iterable[int]) -> str:
    """When, on what and with what the runs were trained."""
    found = list(origins)
    numbers = ", ".join(map(str, sorted(set(seeds))))
    if not found:
        return f"Seeds {numbers}."
    dates = sorted({one.date for one in found})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"

    def names(field: str) -> str:
        return " and ".join(sorted({getattr(one, field) for one in found}))

    return (
        f"Trained {when} on {names('machine')}; torch {names('torch')}, silc {names('silc')}, "
        f"engine.precision={names('precision')}; seeds {numbers}."
    )
