"""crop_resize on Triton: launches of each kernel by chip, views a launch, what the compile gate builds."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..common.triton_runtime import capability, family
from ..gate.gate import Candidate
from . import triton_kernels as kernels

# Columns of the table of views: the region (`ops.REGION`); taps before its weights across and down, and lines before
# its own between the two directions, not in bytes, so that the compiler sees what the products with the size are
# multiples of; and tiles across before its own.
TABLE = ("offset", "line", "height", "width", "flip", "across", "down", "between", "tile")
# Bytes of lines between the two directions, and of weights, for a launch; a view that needs more has one alone.
MOST_BYTES = 1 << 26
WEIGHED = 128  # pixels whose weights are found at a time


class LaunchConfig(NamedTuple):
    """How a kernel is launched: rows and columns of pixels a program, warps."""

    rows: int
    columns: int
    warps: int


LEAST_WARPS = 32  # of a multiprocessor, half of what it holds: they hide the latency of memory
_CONFIGS = {"across": LaunchConfig(8, 64, 4), "down": LaunchConfig(8, 64, 4)}
# What ships, by (kernel, architecture); 80 stands for every chip that is not one of the others. None is timed yet.
SHIPPED: dict[tuple[str, int], LaunchConfig] = {
    (kernel, architecture): config for architecture in (80, 90, 100) for kernel, config in _CONFIGS.items()
}
_TRIALS = {
    "across": (LaunchConfig(16, 32, 4), LaunchConfig(4, 64, 2), LaunchConfig(16, 64, 4)),
    "down": (LaunchConfig(4, 128, 4), LaunchConfig(16, 32, 4), LaunchConfig(16, 64, 4)),
}
TRIALS: dict[tuple[str, int], tuple[LaunchConfig, ...]] = {
    (kernel, architecture): configs for architecture in (90, 100) for kernel, configs in _TRIALS.items()
}


def launch_config(kernel: str, device: torch.device) -> LaunchConfig:
    return SHIPPED[kernel, family(capability(device))]


def parts(needed: Tensor) -> Iterator[slice]:
    """Views that go together. needed: bytes of lines between the directions and of weights, a row a view."""
    if max(needed.sum(0).tolist()) <= MOST_BYTES:
        yield slice(0, len(needed))
        return
    start = lines = weighed = 0
    for view, (line, weight) in enumerate(needed.tolist()):
        if view > start and (lines + line > MOST_BYTES or weighed + weight > MOST_BYTES):
            yield slice(start, view)
            start, lines, weighed = view, 0, 0
        lines, weighed = lines + line, weighed + weight
    yield slice(start, len(needed))


def gate_candidates() -> Iterator[Candidate]:
    for key, config in SHIPPED.items():
        yield candidate(key, config)
    yield Candidate(
        name=f"crop_resize/weigh/{WEIGHED}",
        kernel=kernels.weigh,
        signature=_signature(kernels.weigh),
        constexprs={"BLOCK": WEIGHED},
        aligned=_aligned(kernels.weigh),
        num_warps=4,
        fp_fusion=False,
        programs=LEAST_WARPS // 4,
    )


def trial_candidates() -> Iterator[Candidate]:
    """The alternatives, for `gate --trials`."""
    for key, configs in TRIALS.items():
        for config in configs:
            yield candidate(key, config)


def candidate(key: tuple[str, int], config: LaunchConfig) -> Candidate:
    """How `config` in the place of SHIPPED[key] compiles, for sizes that are multiples of 16."""
    name, architecture = key
    kernel = getattr(kernels, name)
    return Candidate(
        name=f"crop_resize/{name}/{config.rows}x{config.columns} w{config.warps}",
        kernel=kernel,
        signature=_signature(kernel),
        constexprs={"ROWS": config.rows, "COLUMNS": config.columns},
        aligned=_aligned(kernel),
        num_warps=config.warps,
        architectures=(architecture,),
        programs=LEAST_WARPS // config.warps if config == SHIPPED[key] else 1,
    )


_TYPES = {"pixels": "*u8", "table": "*i64", "views": "*i64", "starts": "*i32", "shifts": "*i32", "taps_in": "*i16"}
_TYPES |= {"taps_out": "*i16", "between": "*u8", "out": "*u8", "size": "i32"}


def _signature(kernel: Any) -> dict[str, str]:
    return {name: kind for name, kind in _TYPES.items() if name in kernel.arg_names}


def _aligned(kernel: Any) -> tuple[str, ...]:
    return tuple(name for name in _signature(kernel) if name != "views")
