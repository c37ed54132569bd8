"""Which checkpoints of a run stay: the last ones, every N-th step for good, and the best by a metric.

run/checkpoints/best     {"checkpoint": NAME, "metric": ..., "value": ...}, with train.keep_best
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from silc.config import TrainConfig
from silc.evaluate.metric import lower_is_better
from silc.files import check_regular, parse_json, write_text
from silc.train.checkpoint import NAMED

MAX_BYTES = 4096
MAX_LINE = 1 << 20


@dataclass(frozen=True)
class Best:
    """The checkpoint with the best value of a metric so far."""

    checkpoint: str
    metric: str
    value: float

    def beats(self, other: Best) -> bool:
        """Whether the value is better than another of the same metric: lower of a loss, else higher."""
        return self.value < other.value if lower_is_better(self.metric) else self.value > other.value


def read_best(folder: Path) -> Best | None:
    """What `folder`/best says; None where there is none, or none that can be read: the next evaluation writes it."""
    try:
        check_regular(folder / "best", MAX_BYTES)
        found = json.loads((folder / "best").read_text(encoding="utf-8"))
        best = Best(str(found["checkpoint"]), str(found["metric"]), float(found["value"]))
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError):
        return None
    return best if math.isfinite(best.value) and NAMED.fullmatch(best.checkpoint) else None


def better(folder: Path, name: str, metric: str, metrics: Mapping[str, float]) -> Best | None:
    """`name` as the new best; None where an earlier checkpoint is as good.

    Raises KeyError where the evaluation has no such metric.
    """
    found, before = Best(name, metric, metrics[metric]), read_best(folder)
    if before is None or before.metric != metric or not (folder / before.checkpoint).exists():
        return found
    return found if found.beats(before) else None


def write_best(folder: Path, best: Best) -> None:
    """Raises OSError."""
    write_text(folder / "best", json.dumps(asdict(best)) + "\n")


def restore_best(run: Path, metric: str) -> None:
    """Write `best` anew from metrics.jsonl where it is there and cannot be read, and say so. Raises OSError."""
    folder = run / "checkpoints"
    if not (folder / "best").is_file() or read_best(folder) is not None:
        return
    found = None
    with contextlib.suppress(OSError), (run / "metrics.jsonl").open("rb") as file:
        for line in iter(lambda: file.readline(MAX_LINE), b""):
            with contextlib.suppress(ValueError, KeyError, TypeError, ArithmeticError, AttributeError):
                row = parse_json(line)
                one = Best(f"step_{int(row['step']):08d}", metric, float(row[metric]))
                if (found is None or one.beats(found)) and (folder / one.checkpoint / "manifest.json").is_file():
                    found = one
    said = "no checkpoint of metrics.jsonl is there" if found is None else f"by metrics.jsonl it is {found.checkpoint}"
    print(f"{folder / 'best'} is damaged: {said}", flush=True)
    if found is not None:
        write_best(folder, found)


def superfluous(kept: Sequence[Path], config: TrainConfig) -> list[Path]:
    """Those that may be removed. kept: the whole checkpoints of a run, `step_*`, the newest last."""
    best = None
    if kept and config.keep_best:
        restore_best(kept[0].parents[1], config.keep_best)
        best = read_best(kept[0].parent)

    def stays(path: Path) -> bool:
        step = int(path.name.removeprefix("step_"))
        for_good = config.keep_every and step % config.keep_every == 0
        return bool(for_good) or (best is not None and path.name == best.checkpoint)

    return [path for path in kept[: -config.keep_checkpoints] if not stays(path)]
