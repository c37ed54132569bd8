"""The training benchmark's tables and CSV."""

from __future__ import annotations

import csv
import platform
import subprocess
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks.common.measure import device
from silc.config import Config

PARTS = (
    "data",
    "patch embedding",
    "student",
    "teacher",
    "contrastive",
    "distillation",
    "backward",
    "optimiser",
    "EMA",
    "other",
)
VERSIONS = ("torch", "deepspeed", "open_clip_torch", "timm", "lightly", "torchvision", "webdataset")


@dataclass(frozen=True)
class Row:
    """mode: step or data. ms: median, 20th and 80th percentile. user_s: CPU time of a step. peak_mib: or None."""

    provider: str
    mode: str
    samples_per_s: float
    ms: float
    ms_p20: float
    ms_p80: float
    user_s: float
    peak_mib: float | None


@dataclass(frozen=True)
class Measured:
    """budgets: seconds of each part by variant. flops: those of a SILC step over those of a CLIP step."""

    rows: list[Row]
    budgets: dict[str, dict[str, float]]
    flops: float

    def ratio(self, row: Row) -> float:
        """How many times longer than silc in the same mode."""
        ours = next(other for other in self.rows if (other.provider, other.mode) == ("silc", row.mode))
        return ours.samples_per_s / row.samples_per_s


def machine() -> str:
    """The device by name; on a CPU the model, cores and threads."""
    if device().type == "cuda":
        return torch.cuda.get_device_name()
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = names[0] if names else platform.processor() or platform.machine()
    return f"CPU {model}, {torch.get_num_threads()} threads of {len(names) or '?'} cores"


def versions() -> str:
    """Of everything that is timed."""
    return " ".join(f"{name}=={version(name)}" for name in VERSIONS)


def header(config: Config, dtype: torch.dtype) -> str:
    """What the numbers below it were measured on."""
    views = config.views
    return (
        f"{machine()} ({'' if device().type == 'cuda' else 'not a GPU, '}{str(dtype).removeprefix('torch.')})\n"
        f"{versions()}\n"
        f"preset {config.preset}: batch {config.train.global_batch}, {views.n_global} x {views.global_size} px + "
        f"{views.n_local} x {views.local_size} px, {config.model.head.prototypes} prototypes"
    )


def tables(measured: Measured) -> str:
    """All of it in words."""
    return "\n".join([*_rates(measured), *_overhead(measured), *_budgets(measured.budgets)])


def _rates(measured: Measured) -> list[str]:
    columns = ("samples/s", "ms", "p20", "p80", "user CPU s", "peak MiB", "time / silc")
    lines = ["", f"{'':14s}" + "".join(f"{name:>12s}" for name in columns)]
    for row in measured.rows:
        peak = "-" if row.peak_mib is None else f"{row.peak_mib:.0f}"
        cells = f"{row.samples_per_s:12.1f}{row.ms:12.1f}{row.ms_p20:12.1f}{row.ms_p80:12.1f}{row.user_s:12.2f}"
        lines.append(f"{row.provider:7s}{row.mode:7s}{cells}{peak:>12s}{measured.ratio(row):11.2f}x")
    return lines


def _overhead(measured: Measured) -> list[str]:
    clip = next(row for row in measured.rows if row.provider == "clip")
    time = 1 / measured.ratio(clip)
    return ["", f"SILC over plain CLIP: {time:.2f} times the time, {measured.flops:.2f} times the operations"]


def _budgets(budgets: dict[str, dict[str, float]]) -> list[str]:
    lines = ["", "ms a step by itself" + "".join(f"{variant:>12s}" for variant in budgets)]
    for part in PARTS:
        lines.append(f"  {part:17s}" + "".join(f"{1e3 * budget.get(part, 0):12.1f}" for budget in budgets.values()))
    notes = (
        "  data: one worker's time for a batch, beside the step and not in it. silc's distillation includes its",
        "  gradients, glued's are in backward. Each part waits for the device.",
    )
    return [*lines, *notes]


def save(measured: Measured, config: Config, folder: Path) -> Path:
    """Write the rows, and the budget as rows of mode `part: NAME`, to a CSV named by preset and device type."""
    folder.mkdir(exist_ok=True)
    path = folder / f"train_{config.preset}_{device().type}.csv"
    where = {
        "preset": config.preset,
        "batch": config.train.global_batch,
        "device": machine(),
        "versions": versions(),
        "commit": _commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    rows = [asdict(row) | {"ratio": measured.ratio(row)} | where for row in measured.rows]
    for variant, budget in measured.budgets.items():
        rows += [
            {"provider": variant, "mode": f"part: {part}", "ms": 1e3 * budget[part]} | where
            for part in PARTS
            if part in budget
        ]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({name: f"{v:.4g}" if isinstance(v, float) else v for name, v in row.items()} for row in rows)
    return path


def _commit() -> str:
    asked = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False, cwd=Path(__file__).parent
    )
    return asked.stdout.strip() or "none"
