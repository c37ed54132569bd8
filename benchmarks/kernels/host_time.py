"""What the host does in a call of an op: its time, and how many launches and torch operators it takes."""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import ROOT
from benchmarks.common.measure import device
from benchmarks.kernels.host_cases import HostCase

WARM_UP = 5
ROUND = 20  # calls between two waits for a GPU, whose queue is not to fill
ARCHITECTURE = 90


@dataclass(frozen=True)
class HostRow:
    """Microseconds of a call, the least and the median; NaN where there is no backward. launches: of Triton kernels.
    aten: calls of aten operators, those within others too; operators: those that no other operator called. Counts are
    of forward and backward together.
    """

    op: str
    shape: str
    forward_us: float
    forward_median_us: float
    both_us: float
    both_median_us: float
    launches: int
    aten: int
    operators: int


def measured(cases: Iterable[HostCase], calls: int) -> Iterator[HostRow]:
    """Each case, `calls` calls of each kind, one after the other; on a GPU, or for the driver that launches nothing."""
    for case in cases:
        launches, aten, operators = _counted(case)
        nan = (float("nan"),) * 2
        with _place() as place:
            forward = case.make(place)
            both = _with_backward(forward)
            times = (*_times(forward, calls), *(_times(both, calls) if case.differentiable else nan))
        yield HostRow(case.op, case.shape, *times, launches, aten, operators)


@contextmanager
def _place() -> Iterator[torch.device]:
    """Where to time: the GPU, or a driver without one, whose launches cost their Python part alone."""
    from silc_kernels.gate.dry import dry

    where = device()
    with nullcontext() if where.type == "cuda" else dry(ARCHITECTURE, checked=False):
        yield where


def _with_backward(forward: Callable[[], torch.Tensor]) -> Callable[[], None]:
    def both() -> None:
        out = forward()
        (out if out.dim() == 0 else out.sum()).backward()

    return both


def _times(call: Callable[[], object], calls: int) -> tuple[float, float]:
    """(least, median) microseconds."""
    for _ in range(WARM_UP):
        call()
    found = []
    gc.collect()
    gc.disable()
    try:
        for number in range(calls):
            if number % ROUND == 0 and device().type == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            call()
            found.append((time.perf_counter() - start) * 1e6)
    finally:
        gc.enable()
    return min(found), statistics.median(found)


def _counted(case: HostCase) -> tuple[int, int, int]:
    """(launches, aten calls, operators that no other called); of CPU tensors everywhere, so that machines agree."""
    from silc_kernels.gate.dry import dry

    with dry(ARCHITECTURE) as run:
        forward = case.make(torch.device("cpu"))
        call = _with_backward(forward) if case.differentiable else forward
        for _ in range(2):
            call()
        before = len(run.launches)
        with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiled:
            call()
        launches = len(run.launches) - before
    events = [event for event in profiled.events() if event.name.startswith("aten::")]
    outer = [event for event in events if not _within(event)]
    return launches, len(events), len(outer)


def _within(event: object) -> bool:
    parent = getattr(event, "cpu_parent", None)
    while parent is not None:
        if parent.name.startswith("aten::"):
            return True
        parent = parent.cpu_parent
    return False


COLUMNS = (
    f"{'op':26s} {'shape':32s} {'forward us':>16s} {'with backward':>16s} {'launches':>8s} {'aten':>6s} {'ops':>6s}"
)


def line(row: HostRow) -> str:
    """A line of the table under COLUMNS: least and median times."""
    forward = f"{row.forward_us:7.0f} {row.forward_median_us:8.0f}"
    both = f"{row.both_us:7.0f} {row.both_median_us:8.0f}"
    counts = f"{row.launches:8d} {row.aten:6d} {row.operators:6d}"
    return f"{row.op:26s} {row.shape:32s} {forward:>16s} {both:>16s} {counts}"


def against(other: Path, arguments: Sequence[str], rounds: int) -> Iterator[tuple[HostRow, HostRow]]:
    """(row of the checkout at `other`, row of this one) of each case, from processes that take turns.

    The benchmark is this checkout's, the kernels that it times are each checkout's own.

    Raises:
        ValueError: `other` holds no kernels.
    """
    checkouts = checkout(other).resolve(), ROOT
    found = [[_in_a_process(each, arguments) for each in checkouts] for _ in range(rounds)]
    before, after = ([_best(rows) for rows in zip(*runs, strict=True)] for runs in zip(*found, strict=True))
    yield from zip(before, after, strict=True)


def checkout(folder: Path) -> Path:
    """The same folder.

    Raises:
        ValueError: it holds no kernels.
    """
    if not (folder / "kernels" / "silc_kernels").is_dir():
        raise ValueError(f"{folder}: no kernels/silc_kernels there; give the root of another checkout")
    return folder


def _in_a_process(root: Path, arguments: Sequence[str]) -> list[HostRow]:
    paths = [str(root / "kernels"), str(ROOT), str(ROOT / "kernels")]
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [sys.executable, str(ROOT / "benchmarks" / "host_bench.py"), *arguments, "--json", file.name]
        subprocess.run(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}, check=True, stdout=2)
        return [HostRow(**row) for row in json.load(file)]


def _best(rows: Sequence[HostRow]) -> HostRow:
    """Of the same case in several processes: the least of least times, the median of medians."""
    return replace(
        rows[0],
        forward_us=min(row.forward_us for row in rows),
        both_us=min(row.both_us for row in rows),
        forward_median_us=statistics.median(row.forward_median_us for row in rows),
        both_median_us=statistics.median(row.both_median_us for row in rows),
    )


PAIRED = (
    f"{'op':26s} {'shape':32s} {'forward us':>14s} {'ratio':>6s} {'with backward':>14s} {'ratio':>6s} "
    f"{'launches':>9s} {'aten':>10s}"
)


def paired(before: HostRow, after: HostRow) -> str:
    """A line under PAIRED: least times before and after, and how many times as fast."""
    forward = f"{before.forward_us:5.0f} -> {after.forward_us:5.0f}"
    both = f"{before.both_us:5.0f} -> {after.both_us:5.0f}"
    ratios = before.forward_us / after.forward_us, before.both_us / after.both_us
    counts = f"{before.launches:3d} -> {after.launches:2d} {before.aten:4d} -> {after.aten:3d}"
    return f"{before.op:26s} {before.shape:32s} {forward:>14s} {ratios[0]:6.2f} {both:>14s} {ratios[1]:6.2f} {counts}"
