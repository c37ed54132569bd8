"""The photometric list on Triton: launches of each kernel by chip, views a launch, what the compile gate builds."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from ..common.triton_runtime import capability, family
from ..gate.gate import Candidate
from . import triton_kernels as kernels

# Values of scratch memory, 2 bytes each, of which a blur needs two lots: 128 MiB in all, whatever the batch.
SCRATCH_VALUES = 1 << 25
PARTIALS = 128  # sums of the grey added at a time


class LaunchConfig(NamedTuple):
    """How a kernel is launched: rows and columns of pixels a program (one row where it takes no notice of lines),
    warps.

    A blur across loads pixels that lie apart by any number: with more than two a thread, a warp's loads spread over
    more memory than they take.
    """

    rows: int
    columns: int
    warps: int


LEAST_WARPS = 32  # of a multiprocessor, half of what it holds: they hide the latency of memory
_CONFIGS = {
    "greys": LaunchConfig(1, 2048, 8),  # with 4 warps Triton 3.8 spills
    "points": LaunchConfig(1, 2048, 8),
    "blur_across": LaunchConfig(16, 32, 8),
    "blur_down": LaunchConfig(32, 32, 4),
}
# What ships, by (kernel, architecture); 80 stands for every chip that is not one of the others. None is timed yet.
SHIPPED: dict[tuple[str, int], LaunchConfig] = {
    (kernel, architecture): config for architecture in (80, 90, 100) for kernel, config in _CONFIGS.items()
}
_TRIALS = {
    "greys": (LaunchConfig(1, 4096, 8), LaunchConfig(1, 1024, 4), LaunchConfig(1, 4096, 4)),
    "points": (LaunchConfig(1, 1024, 8), LaunchConfig(1, 2048, 4), LaunchConfig(1, 512, 4)),
    "blur_across": (LaunchConfig(8, 32, 8), LaunchConfig(4, 128, 8), LaunchConfig(32, 32, 4)),
    "blur_down": (LaunchConfig(16, 64, 4), LaunchConfig(32, 32, 8), LaunchConfig(64, 32, 8)),
}
TRIALS: dict[tuple[str, int], tuple[LaunchConfig, ...]] = {
    (kernel, architecture): configs for architecture in (90, 100) for kernel, configs in _TRIALS.items()
}


def launch_config(kernel: str, device: torch.device) -> LaunchConfig:
    return SHIPPED[kernel, family(capability(device))]


def views_at_once(values: int) -> int:
    """How many views of `values` numbers fit the scratch memory; at least one."""
    return max(1, SCRATCH_VALUES // values)


def gate_candidates() -> Iterator[Candidate]:
    for key, config in SHIPPED.items():
        yield candidate(key, config)


def trial_candidates() -> Iterator[Candidate]:
    """The alternatives, for `gate --trials`."""
    for key, configs in TRIALS.items():
        for config in configs:
            yield candidate(key, config)


def candidate(key: tuple[str, int], config: LaunchConfig) -> Candidate:
    """How `config` in the place of SHIPPED[key] compiles, for views of 256 or 96 pixels a side."""
    kernel, architecture = key
    tensors = {"views": "*u8", "parameters": "*fp32", "partial": "*fp32", "scratch": "*u16", "out": "*u16"}
    sizes = dict.fromkeys(("pixels", "tiles", "partials", "width", "height"), "i32") | {"share": "fp32"}
    constants = {"BLOCK": config.columns, "PARTIALS": PARTIALS, "ROWS": config.rows, "COLUMNS": config.columns}
    function = getattr(kernels, kernel)
    return Candidate(
        name=f"photometric/{kernel}/{config.rows}x{config.columns} w{config.warps}",
        kernel=function,
        signature={name: kind for name, kind in (tensors | sizes).items() if name in function.arg_names},
        constexprs={name: value for name, value in constants.items() if name in function.arg_names},
        aligned=tuple(name for name in (*tensors, "pixels", "width", "height") if name in function.arg_names),
        num_warps=config.warps,
        architectures=(architecture,),
        programs=LEAST_WARPS // config.warps if config == SHIPPED[key] else 1,
    )
