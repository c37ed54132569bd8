"""Time and peak memory of one provider against another, in one process, on a CPU or a GPU."""

import ctypes
import gc
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")
PEAK_RESET = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Row:
    """milliseconds: median, 20th and 80th percentile of the wall time. processor_ms: median of the processor time of
    all threads, which a busy machine disturbs less. peak_mib: above what was held before the call.
    """

    provider: str
    milliseconds: tuple[float, float, float]
    processor_ms: float
    peak_mib: float


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def banner() -> str:
    """What the figures below it were measured on."""
    if device().type == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"CPU {platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__} (not a GPU)"


def compare(providers: dict[str, Callable[[], object]], repeats: int) -> list[Row]:
    """Each provider `repeats` times, in turns, so that a slow moment of the machine falls on all of them.

    Peak memory comes from a first run, which also warms up and is timed only where it is to be the only one.
    """
    first = {name: _first_run(fn) for name, fn in providers.items()}
    times = {name: [spent] if repeats == 1 else [] for name, (spent, _) in first.items()}
    for _ in range(repeats if repeats > 1 else 0):
        for name, fn in providers.items():
            times[name].append(_milliseconds(fn))
    rows = []
    for name, spent in times.items():
        wall, processor = zip(*spent, strict=True)
        rows.append(Row(name, _percentiles(wall), statistics.median(processor), first[name][1]))
    return rows


def show(title: str, rows: Sequence[Row]) -> None:
    """A table; the first row is ours, and the ratios say how many times longer (wall, processor) the others take."""
    print(f"\n{title}")
    print(
        f"  {'provider':34s} {'ms':>10s} {'p20':>10s} {'p80':>10s} {'cpu ms':>10s} {'peak MiB':>9s} {'ratio':>6s} "
        f"{'cpu':>6s}"
    )
    for row in rows:
        middle, low, high = row.milliseconds
        wall, processor = middle / rows[0].milliseconds[0], row.processor_ms / rows[0].processor_ms
        times = f"{middle:10.2f} {low:10.2f} {high:10.2f} {row.processor_ms:10.2f}"
        print(f"  {row.provider:34s} {times} {row.peak_mib:9.1f} {wall:5.2f}x {processor:5.2f}x")


def gate(name: str, actual: Sequence[torch.Tensor], expected: Sequence[torch.Tensor], bound: float) -> None:
    """Correct first: relative error of each tensor, by norm, at most `bound`.

    Raises:
        ValueError: it is not; a wrong result is not timed.
    """
    worst = max(
        float((a.double() - e.double()).norm() / e.double().norm()) for a, e in zip(actual, expected, strict=True)
    )
    if not worst <= bound:
        raise ValueError(f"{name}: relative error {worst:.1e} above {bound:.0e}; nothing is timed")
    print(f"  correct: {name}: worst relative error of value and gradients {worst:.1e} (bound {bound:.0e})")


def _milliseconds(fn: Callable[[], object]) -> tuple[float, float]:
    """(wall time, processor time of this process)."""
    _wait()
    wall, processor = time.perf_counter(), time.process_time()
    fn()
    _wait()
    return (time.perf_counter() - wall) * 1e3, (time.process_time() - processor) * 1e3


def _wait() -> None:
    if device().type == "cuda":
        torch.cuda.synchronize()


def _percentiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    cuts = statistics.quantiles(values, n=10, method="inclusive")
    return statistics.median(values), cuts[1], cuts[7]


def _first_run(fn: Callable[[], object]) -> tuple[tuple[float, float], float]:
    """(what `_milliseconds` says, peak MiB above what was held before)."""
    gc.collect()
    if device().type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        spent = _milliseconds(fn)
        return spent, (torch.cuda.max_memory_allocated() - before) / 2**20
    if not PEAK_RESET.exists():
        return _milliseconds(fn), float("nan")
    # Freed heap is handed back first, or the run could reuse it unseen. Writing 5 resets the kernel's high-water mark.
    ctypes.CDLL(None).malloc_trim(0)
    PEAK_RESET.write_text("5")
    before = _resident_mib("VmRSS")
    spent = _milliseconds(fn)
    return spent, _resident_mib("VmHWM") - before


def _resident_mib(field: str) -> float:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024
