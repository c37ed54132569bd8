"""Where the numbers go: metrics.jsonl always, TensorBoard, and wandb if it is installed and a project is named."""

from __future__ import annotations

import importlib.util
import json
import math
import time
from pathlib import Path
from typing import Any

from silc.config import Config
from silc.config_io import to_dict
from silc.files import check_regular, parse_json, replacing
from silc.train.plan.gpus import gpu_of_device

MAX_LINE = 16 << 20  # bytes of a row


def peak_flops(config: Config, device_name: str) -> float | None:
    """Peak bf16 rate of one device in FLOP/s, or None when unknown (a CPU, say): then no MFU is shown."""
    if config.train.peak_tflops is not None:
        return config.train.peak_tflops * 1e12
    gpu = gpu_of_device(device_name)
    return None if gpu is None or gpu.tflops is None else gpu.tflops * 1e12


def check_loggers(config: Config) -> None:
    """Refuse a logger that is asked for and not installed. Raises ValueError."""
    for key, package, off in (("wandb_project", "wandb", "null"), ("tensorboard", "tensorboard", "false")):
        if getattr(config.train, key) and importlib.util.find_spec(package) is None:
            raise ValueError(
                f"train.{key} asks for {package}, which is not installed: pip install {package}, or train.{key}={off}"
            )


class MetricLog:
    """Writes rows of scalars on the main rank.

    Non-finite values are written as null, so that every line is valid JSON. `step`, `position`: where the run goes on;
    rows of later steps, which an earlier part of the run wrote and which are now taken again, are dropped, and so are
    discarded steps whose samples come again.
    """

    def __init__(self, config: Config, folder: Path, step: int, position: int = 0) -> None:
        self._folder = folder
        drop_later_rows(folder / "skipped_steps.jsonl", position, "position")
        self._next: dict[str, Any] = {}
        self._board: Any = None
        self._wandb: Any = None
        self._tensorboard = config.train.tensorboard
        self._open(step)
        if config.train.wandb_project:
            import wandb

            self._wandb = wandb.init(project=config.train.wandb_project, dir=str(folder), config=to_dict(config))

    def _open(self, step: int) -> None:
        drop_later_rows(self._folder / "metrics.jsonl", step)
        self._file = (self._folder / "metrics.jsonl").open("a", encoding="utf-8")
        if self._tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self._folder / "tensorboard"), purge_step=step + 1)

    def go_back(self, step: int) -> None:
        """Drop the rows of later steps, which are taken again. wandb keeps them: its steps only rise."""
        self._file.close()
        if self._board is not None:
            self._board.close()
        self._open(step)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """One row; scalars also go to TensorBoard and wandb."""
        values, self._next = values | self._next, {}
        row = {"step": step, "time": round(time.time(), 3)} | {name: _plain(value) for name, value in values.items()}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        scalars = {k: v for k, v in values.items() if isinstance(v, int | float)}
        if self._board is not None:
            for name, value in scalars.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(scalars, step=step)

    def with_next(self, values: dict[str, Any]) -> None:
        """Have the next row hold these too."""
        self._next |= values

    def close(self) -> None:
        """Flush and close."""
        self._file.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def drop_later_rows(path: Path, last: int, key: str = "step") -> None:
    """Keep a JSON Lines file's rows with a `key` up to `last`. Lines that are no rows go too: a last one may be cut.

    Raises ValueError for what is no regular file, and OSError.
    """
    if not path.exists():
        return
    check_regular(path)
    with path.open("rb") as file, replacing(path) as draft, draft.open("wb") as kept:
        for line in iter(lambda: file.readline(MAX_LINE), b""):
            if line.endswith(b"\n") and (found := _whole_number(line, key)) is not None and found <= last:
                kept.write(line)


def _whole_number(line: bytes, key: str) -> int | None:
    try:
        row = parse_json(line.decode("utf-8"))
    except ValueError:
        return None
    found = row.get(key) if isinstance(row, dict) else None
    return found if type(found) is int else None


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
