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
M_MMAP_THRESHOLD = -3  # glibc's mallopt


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
    names = ("ms", "p20", "p80", "cpu ms", "peak MiB", "ratio", "cpu")
    print(f"  {'provider':34s} " + " ".join(f"{name:>9s}" for name in names))
    for row in rows:
        middle, low, high = row.milliseconds
        wall, processor = middle / rows[0].milliseconds[0], row.processor_ms / rows[0].processor_ms
        figures = [f"{value:9.2f}" for value in (middle, low, high, row.processor_ms, row.peak_mib)]
        print(f"  {row.provider:34s} " + " ".join([*figures, f"{wall:8.2f}x", f"{processor:8.2f}x"]))


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
    libc = ctypes.CDLL(None)
    # Freed memory must go back, or a run would reuse it unseen, and holes left by earlier runs would count for it: what
    # is held goes back now, and blocks from 1 MiB on are mapped by themselves during the run.
    libc.malloc_trim(0)
    libc.mallopt(M_MMAP_THRESHOLD, 1 << 20)
    PEAK_RESET.write_text("5")  # resets the high-water mark
    before = _resident_mib("VmRSS")
    spent = _milliseconds(fn)
    peak = _resident_mib("VmHWM") - before
    libc.mallopt(M_MMAP_THRESHOLD, 1 << 25)  # where the allocator's own adaptation ends
    return spent, peak


def _resident_mib(field: str) -> float:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024
