"""Where and when a run was trained: claims.json in its folder, for pages that gather runs of several machines."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path

from silc.claims.plan import Run
from silc.files import read_json, write_text
from silc.text import plural
from silc.version import __version__

NAME = "claims.json"
MAX_BYTES = 1 << 16
LONGEST = 200  # characters of a name


@dataclass(frozen=True)
class Origin:
    """Text of one line each. date: of the training's end, or of its last beginning if that call was killed, UTC, as
    2026-11-27; machine: name of the GPU or the CPU; precision: bf16 or fp32.
    """

    date: str
    machine: str
    torch: str
    silc: str
    precision: str


def here(run: Run, *, on_cpu: bool) -> Origin:
    """Of a run on this machine, today. on_cpu: whether it is trained on the CPU, though there may be a GPU."""
    precision = run.config.engine.precision
    if precision == "auto":  # as the trainer takes it
        precision = "fp32" if on_cpu else "bf16"
    return Origin(
        datetime.now(UTC).date().isoformat(), machine(on_cpu), metadata.version("torch"), __version__, precision
    )


@cache
def machine(on_cpu: bool) -> str:
    """Name of this machine's GPU, or of its CPU, on which each run has one thread."""
    return f"{cpu_model()}, one thread a run" if on_cpu else gpu_model()


def gpu_model() -> str:
    """As torch names it, in a process that ends: asked here it would hold memory of the GPU for hours."""
    words = [sys.executable, "-c", "import torch; print(torch.cuda.get_device_name())"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "a GPU"
    lines = done.stdout.splitlines()
    return lines[-1] if done.returncode == 0 and lines else "a GPU"


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """As Linux has it; else the architecture."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names and names[0] else f"{platform.machine()} CPU"


def begin(run: Run, *, on_cpu: bool) -> None:
    """Note this machine and the day before a training, beside the run's folder, which the trainer wants empty.

    The call may be gone when the training ends. Raises OSError.
    """
    path = _begun(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, here(run, on_cpu=on_cpu))


def write(run: Run, *, on_cpu: bool) -> None:
    """Note this machine and the day in the folder of a run that has ended. Raises OSError."""
    _write(run.folder / NAME, here(run, on_cpu=on_cpu))
    _begun(run).unlink(missing_ok=True)


def _begun(run: Run) -> Path:
    return run.folder.parent / "begun" / f"{run.folder.name}.json"


def _write(path: Path, found: Origin) -> None:
    write_text(path, json.dumps(asdict(found), indent=1) + "\n")


def read(run: Run) -> Origin | None:
    """What was noted at the end, else at the beginning; None where nothing was, or for a file that is damaged."""
    path = run.folder / NAME
    try:
        found = read_json(path if path.exists() else _begun(run), MAX_BYTES)
    except (OSError, ValueError):
        return None
    names = [field.name for field in fields(Origin)]
    if not isinstance(found, dict) or not all(isinstance(found.get(name), str) for name in names):
        return None
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", found["date"]):
        return None
    return Origin(**{name: found[name][:LONGEST] for name in names})


def sentence(origins: Iterable[Origin | None], seeds: Iterable[int]) -> str:
    """When, on what and with what the runs were trained; None: of a run of which that is not noted."""
    given = list(origins)
    found = [one for one in given if one is not None]
    unknown = len(given) - len(found)
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
        + (f" Of {plural(unknown, 'run')} the machine is not noted." if unknown else "")
    )
