"""The process that holds one variant of the training benchmark; the functions here run inside it, by their names."""

from __future__ import annotations

import gc
import itertools
import os
import resource
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.common.measure import device, resident_mib
from benchmarks.common.stopwatch import Stopwatch
from silc import config_io

VARIANTS = ("silc", "glued", "clip")


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step: on the clock, and of user CPU time over all threads of this process."""

    wall: float
    user: float


@dataclass
class _Held:
    variant: Any
    batches: Iterator[Any]
    base_mib: float


_held: _Held


def start(name: str, tree: dict[str, Any], shards: list[str], folder: str, batches: str) -> None:
    """Build a variant (one of VARIANTS) of a configuration in this process, with batches that lie in a file."""
    global _held
    # What a variant imports, now or at its first step, and the device's own start are no part of its memory.
    if name == "glued":
        from benchmarks.train.baseline import Glued as Variant
    else:
        from benchmarks.train.ours import Ours as Variant
    # The gate compares fp32 with fp32: timm's patch convolution would otherwise be rounded to TF32 on a GPU.
    torch.backends.cudnn.allow_tf32 = False
    config = config_io.build(tree)
    with open(os.devnull, "w") as quiet, redirect_stdout(quiet):
        Variant.warm_up(config)
    gc.collect()
    _wait()
    base = _peak_mib()
    torch.manual_seed(config.train.seed)
    place = Path(folder) / name
    place.mkdir(exist_ok=True)
    with open(os.devnull, "w") as quiet, redirect_stdout(quiet):
        variant = Variant(config, shards, place)
    held = [variant.in_memory(batch) for batch in torch.load(batches, weights_only=False)]
    _held = _Held(variant, itertools.cycle(held), base)


def losses(steps: int) -> list[tuple[float, float | None]]:
    """The contrastive and the distillation loss of the next steps."""
    values = [_held.variant.step(next(_held.batches)) for _ in range(steps)]
    return [(float(c), None if d is None else float(d)) for c, d in values]


def turn(steps: int) -> list[StepTime]:
    """Time steps on batches in memory. On a GPU one more goes before them: memory was handed back at the last end."""
    if device().type == "cuda":
        _one(_held.batches)
    times = [_one(_held.batches) for _ in range(steps)]
    _hand_back()
    return times


def turn_with_data(steps: int, warm: int) -> list[StepTime]:
    """Time steps that wait for their batches, after `warm` that are not counted; the workers end with the turn."""
    batches = _held.variant.batches(_held.variant.config.data.workers)
    for _ in range(warm):
        _one(batches)
    times = [_one(batches) for _ in range(steps)]
    del batches
    gc.collect()
    _hand_back()
    return times


def data_seconds(batches: int) -> float:
    """Mean time to make a batch in this process alone, the first one left out."""
    stream = _held.variant.batches(0)
    next(stream)
    start = time.perf_counter()
    for _ in range(batches):
        next(stream)
    return (time.perf_counter() - start) / batches


def budget(steps: int) -> dict[str, float]:
    """Mean seconds of each part of a step, with a wait for the device between parts; `other` is what is left."""
    watch = Stopwatch(_wait)
    _one(_held.batches)
    with watch.watching(_held.variant.spans()):
        for _ in range(steps):
            with watch.part("other"):
                _held.variant.step(next(_held.batches))
    return {part: seconds / steps for part, seconds in watch.seconds.items()}


def peak_mib() -> float:
    """Most memory held so far, above what was held after the imports."""
    return _peak_mib() - _held.base_mib


def _one(batches: Iterator[Any]) -> StepTime:
    _wait()
    user, wall = resource.getrusage(resource.RUSAGE_SELF).ru_utime, time.perf_counter()
    _held.variant.step(next(batches))
    _wait()
    end = time.perf_counter()
    return StepTime(end - wall, resource.getrusage(resource.RUSAGE_SELF).ru_utime - user)


def _wait() -> None:
    if device().type == "cuda":
        torch.cuda.synchronize()


def _hand_back() -> None:
    """Variants share the GPU in turns: what the allocator keeps for later would be missing for the next one."""
    if device().type == "cuda":
        torch.cuda.empty_cache()


def _peak_mib() -> float:
    if device().type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    # Not ru_maxrss: that of the process which started this one counts for it too.
    return resident_mib("VmHWM")
