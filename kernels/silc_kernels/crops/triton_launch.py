"""crop_resize on Triton: launches of each kernel by chip, what the compile gate builds."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from ..common.triton_runtime import capability, family
from ..gate.gate import Candidate
from . import triton_kernels as kernels

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
