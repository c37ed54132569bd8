"""Calls as a training makes them, on a GPU: one behind the other without a wait; and as a CUDA graph."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import torch

CALLS = 11  # few enough that no queue of launches is full, where the host would wait for the device
REPLAYS = 9


def back_to_back(name: str, fn: Callable[[], object]) -> float:
    """Milliseconds from the start of one call to that of the next, median of CALLS: what the host takes for one."""
    starts = []
    torch.cuda.synchronize()
    for _ in range(CALLS + 1):
        starts.append(time.perf_counter())
        fn()
    torch.cuda.synchronize()
    return 1e3 * statistics.median(b - a for a, b in pairwise(starts))


def replayed(name: str, fn: Callable[[], object]) -> float:
    """Milliseconds of the device for a replay of the call, forward and backward, captured as a CUDA graph.

    NaN where it cannot be captured, and the reason printed. Then torch is left in the state of a capture (the stream,
    the memory pool, the random generator): nothing more may be measured in this process; see kernels/graphs.py.
    """
    graph = torch.cuda.CUDAGraph()
    try:
        _warm(fn)
        with torch.cuda.graph(graph):
            fn()
        return statistics.median(_replay(graph) for _ in range(REPLAYS))
    except Exception as error:  # whatever a capture ends by; what can be captured is a finding
        lines = str(error).strip().splitlines() or [""]
        print(f"  no CUDA graph of {name} ({type(error).__name__}: {lines[0]})", flush=True)
        return math.nan
    finally:
        del graph  # and the memory that it holds


def _warm(fn: Callable[[], object]) -> None:
    """A call on a stream of its own: what is made once must be there before the capture."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        fn()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()


def _replay(graph: torch.cuda.CUDAGraph) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    graph.replay()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)
