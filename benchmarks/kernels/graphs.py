"""The calls that a benchmark has timed once more as CUDA graphs: after all timings are saved, in a process of its own.

A capture that fails leaves torch's stream, memory pool and random generator in the state of a capture, and nothing
behind it could be trusted: its process ends, and a new one goes on with the next call.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.common.back_to_back import replayed
from benchmarks.kernels.table import written

if TYPE_CHECKING:
    from benchmarks.kernels.cases import Case

UNTRIED, REFUSED = "", "refused"  # in the column graph_ms; REFUSED also while it is tried, as a crash would leave it

Lines = list[dict[str, object]]


def measure(cases: Iterable[Case], records: Lines, keep: Callable[[Lines], object]) -> bool:
    """Replay every call of `cases` that `records` has no graph of. keep: saves them, after each.

    False: a capture failed, which must be the last work of a process.
    """
    for case in cases:
        untried = (case.op, case.shape, UNTRIED)
        lines = [line for line in records if (line["op"], line["shape"], line["graph_ms"]) == untried]
        providers = case.providers() if lines else {}
        for line in lines:
            name = str(line["provider"])
            line["graph_ms"] = REFUSED
            keep(records)
            found = replayed(f"{case.op} {case.shape}: {name}", providers[name])
            if found != found:
                return False
            line["graph_ms"] = written(found)
            keep(records)
            print(f"  CUDA graph of {case.op} {case.shape}: {name} {found:.4g} ms", flush=True)
    return True


def by_processes(command: list[str], read: Callable[[], Lines]) -> Lines:
    """`command` in a process of its own, again as long as one that could not end well has tried something more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    records = read()
    while before := count(records):
        ended_well = subprocess.run(command, check=False).returncode == 0
        records = read()
        if ended_well or count(records) >= before:
            break
    return records


def count(records: Lines) -> int:
    """How many calls have not been tried."""
    return sum(line["graph_ms"] == UNTRIED for line in records)


def leave(well: bool) -> None:
    """End this process, without what a failed capture would do to its end."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if well else 3)


def command(only: str, size: str, folder: Any) -> list[str]:
    """This script again, for its graphs alone."""
    return [sys.executable, sys.argv[0], "--graphs", "--size", size, "--only", only, "--save", str(folder)]
