"""What the report says of itself: the command, the date, the data, the configuration, versions, the device."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch

import silc
from silc import config_io
from silc.config import Config
from silc.evaluate.datasets import EvalData, sample_in_words
from silc.evaluate.report.rendering import task_title
from silc.evaluate.runner import Result
from silc.evaluate.tasks import TASKS
from silc.text import plural

PACKAGES = ("torch", "torchvision", "triton", "deepspeed", "open_clip_torch", "numpy")


@dataclass(frozen=True)
class About:
    """Where a page comes from.

    Attributes:
        command: as it was given to this process.
        date: of the evaluation.
        data: (what for, which), a line each.
        config: YAML.
        versions: name and number of each package, as `torch 2.10.0`.
        device: in words.
    """

    command: str
    date: str
    data: tuple[tuple[str, str], ...]
    config: str
    versions: tuple[str, ...]
    device: str


def about(
    config: Config,
    data: EvalData,
    results: Sequence[Result],
    device: torch.device,
    *,
    run: Path,
    argv: Sequence[str] | None = None,
) -> About:
    """Of an evaluation that has just been made.

    Args:
        config, data, results: what was measured.
        device: it was measured on.
        run: folder of the training; its config.yaml shows that `config.data` is what was trained on.
        argv: script and words; None: those of this process.
    """
    trained = [("training data", _training_data(config))] if (run / "config.yaml").is_file() else []
    return About(
        command_line(sys.argv if argv is None else argv),
        datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        (*trained, *_test_data(data, results)),
        config_io.to_yaml(config),
        versions(),
        device_name(device),
    )


def command_line(argv: Sequence[str]) -> str:
    """Script and words as one could type them; without what DeepSpeed's launcher adds."""
    script, *words = argv or [""]
    path = Path(script)
    if path.parts[-3:-1] == ("silc", "commands"):
        name = f"silc {path.stem}"
    else:
        inside = path.is_absolute() and path.is_relative_to(Path.cwd())
        name = shlex.quote(str(path.relative_to(Path.cwd()) if inside else path))
    given = [word for word in words if not word.startswith(("--local_rank=", "--local-rank="))]
    return f"{name} {shlex.join(given)}".strip()


def versions() -> tuple[str, ...]:
    """Of this package, of Python, and of PACKAGES as far as they are installed."""
    own = getattr(silc, "__version__", None)
    found = [*([] if own is None else [f"silc {own}"]), f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return tuple(found)


def device_name(device: torch.device) -> str:
    """Name of the device, and how many ranks the job has."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({platform.machine()})"
    return f"{name}, {plural(int(os.environ.get('WORLD_SIZE', '1')), 'rank')}"


def _training_data(config: Config) -> str:
    if config.data.sources:
        return "; ".join(f"{', '.join(source.shards)} (weight {source.weight:g})" for source in config.data.sources)
    if config.data.shards:
        return ", ".join(config.data.shards)
    return f"the embedded sample set, {sample_in_words(config.data)}"


def _test_data(data: EvalData, results: Sequence[Result]) -> list[tuple[str, str]]:
    """A line for each data set, with the tasks measured on it."""
    tasks: dict[str, list[str]] = {}
    for result in results:
        tasks.setdefault(result.data, []).append(result.task)
    lines = []
    for name, measured in tasks.items():
        used = data.of(TASKS[measured[0]])
        size = "" if used is None else f", {plural(len(used.test), 'image')}"
        words = ", ".join(dict.fromkeys(task_title(task) for task in measured))
        lines.append(("test data", f"{name}{size}: {words}"))
    return lines
