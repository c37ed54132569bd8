"""Time and peak memory of one provider against another, in one process, on a CPU or a GPU; what that machine is."""

import ctypes
import gc
import math
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.common.back_to_back import back_to_back

STATUS = Path("/proc/self/status")
PEAK_RESET = Path("/proc/self/clear_refs")
M_MMAP_THRESHOLD = -3  # glibc's mallopt
CYCLES = 2_000_000  # of a GPU in a millisecond, about


@dataclass(frozen=True)
class Row:
    """milliseconds: median, 20th and 80th percentile of the wall time. processor_ms: median of the processor time of
    all threads, which a busy machine disturbs less. peak_mib: above what was held before the call. enqueue_ms: until
    the call returns, on a GPU that is busy; a GPU waits for that where the work of a call is shorter. host_ms: a call
    among calls back to back, without a wait between, on a GPU; the larger of the host's time and the device's.
    NaN: not measured, on a CPU for one.
    """

    provider: str
    milliseconds: tuple[float, float, float]
    processor_ms: float
    peak_mib: float
    enqueue_ms: float = math.nan
    host_ms: float = math.nan


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name() -> str:
    """The GPU's name, or the CPU's with its threads."""
    if device().type == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU {platform.machine()}, {torch.get_num_threads()} threads"


def device_slug() -> str:
    """The device as part of a file name: "cpu", or "nvidia_h100_80gb_hbm3"."""
    if device().type == "cpu":
        return "cpu"
    return "".join(letter if letter.isalnum() else "_" for letter in device_name().lower())


def commit() -> str:
    """The commit of this checkout, short; "unknown" without git."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def banner() -> str:
    """The machine, torch's version, and whether it is a GPU: a heading for measurements."""
    kind = "" if device().type == "cuda" else " (not a GPU)"
    return f"{device_name()}, torch {torch.__version__}{kind}"


def compare(providers: dict[str, Callable[[], object]], repeats: int, *, extras: bool = True) -> list[Row]:
    """Each provider `repeats` times, in turns, so that a slow moment of the machine falls on all of them.

    extras: on a GPU also calls back to back.

    Peak memory comes from a first run, which also warms up: it is slower than others, for its memory comes in small
    pieces that are mapped afresh, so that they can be counted.
    """
    extras = extras and device().type == "cuda"
    peaks = {name: _peak_mib(fn) for name, fn in providers.items()}
    enqueue = {name: _enqueue_ms(fn) for name, fn in providers.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in providers}
    for _ in range(repeats):
        for name, fn in providers.items():
            times[name].append(milliseconds(fn, enqueue[name]))
    rows = []
    for name, spent in times.items():
        wall, processor = zip(*spent, strict=True)
        host = back_to_back(name, providers[name]) if extras else math.nan
        rows.append(Row(name, _percentiles(wall), statistics.median(processor), peaks[name], enqueue[name], host))
    return rows


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


def milliseconds(fn: Callable[[], object], enqueue_ms: float = 1.0) -> tuple[float, float]:
    """(time on the clock, or between two events on a GPU; processor time of this process).

    enqueue_ms: how long the launches of a call take. A GPU starts behind a wait of twice that: else the launches of a
    short op would be timed, not the op.
    """
    processor = time.process_time()
    if device().type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        torch.cuda._sleep(int(CYCLES * (1 + 2 * enqueue_ms)))
        start.record()
        fn()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end), (time.process_time() - processor) * 1e3
    wall = time.perf_counter()
    fn()
    return (time.perf_counter() - wall) * 1e3, (time.process_time() - processor) * 1e3


def _enqueue_ms(fn: Callable[[], object]) -> float:
    """The lesser of two calls while the GPU is busy; NaN on a CPU."""
    if device().type != "cuda":
        return math.nan
    found = []
    for _ in range(2):
        torch.cuda.synchronize()
        torch.cuda._sleep(5 * CYCLES)
        start = time.perf_counter()
        fn()
        found.append((time.perf_counter() - start) * 1e3)
    torch.cuda.synchronize()
    return min(found)


def _percentiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    cuts = statistics.quantiles(values, n=10, method="inclusive")
    return statistics.median(values), cuts[1], cuts[7]


def _peak_mib(fn: Callable[[], object]) -> float:
    """Peak MiB above what was held before; NaN where the system does not report it."""
    gc.collect()
    if device().type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        fn()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    if not PEAK_RESET.exists():
        fn()
        return float("nan")
    libc = ctypes.CDLL(None)
    # Freed memory must go back, or a run would reuse it unseen, and holes left by earlier runs would count for it: what
    # is held goes back now, and blocks from 1 MiB on are mapped by themselves during the run.
    libc.malloc_trim(0)
    libc.mallopt(M_MMAP_THRESHOLD, 1 << 20)
    PEAK_RESET.write_text("5")  # resets the high-water mark
    before = resident_mib("VmRSS")
    fn()
    peak = resident_mib("VmHWM") - before
    libc.mallopt(M_MMAP_THRESHOLD, 1 << 25)  # where the allocator's own adaptation ends
    return peak


def resident_mib(field: str) -> float:
    """What /proc says of this process: VmRSS, now, or VmHWM, at most so far."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024
