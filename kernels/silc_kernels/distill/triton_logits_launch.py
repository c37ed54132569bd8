"""distill_loss on Triton: launches of each kernel by chip, how rows are split, what the compile gate builds."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from ..common.direct import cdiv
from ..common.triton_runtime import capability, family
from ..gate.gate import Candidate
from . import triton_logits_kernels as kernels

# What fits the registers of a lane: statistics of so many students, weights of so many pairs.
MOST_STUDENTS, MOST_PAIRS = 16, 32
# Programs for each multiprocessor that hide the latency of memory and a ragged last wave.
PROGRAMS = 8
LEAST_TILES, MOST_SPLITS = 4, 64
MERGED = 32  # samples


class LaunchConfig(NamedTuple):
    """How a kernel is launched: lanes x 16 bytes of neighbouring logits at a time, of every row; warps, stages."""

    lanes: int
    warps: int
    stages: int


_STATISTICS, _GRADIENT = LaunchConfig(128, 4, 3), LaunchConfig(128, 4, 1)
# What ships, by (kernel, architecture); 80 stands for every chip that is not one of the others.
SHIPPED: dict[tuple[str, int], LaunchConfig] = {
    ("statistics", 80): _STATISTICS,
    ("statistics", 90): _STATISTICS,
    ("statistics", 100): _STATISTICS,
    ("gradient", 80): _GRADIENT,
    ("gradient", 90): _GRADIENT,
    ("gradient", 100): _GRADIENT,
}
# What else is worth timing, and may well be faster.
_STATISTICS_TRIALS = (
    LaunchConfig(128, 4, 2),  # less shared memory, so more programs a multiprocessor
    LaunchConfig(128, 4, 4),  # more bytes on their way in each program
    LaunchConfig(256, 8, 2),  # half the programs, each with twice the bytes of a row at a time
    LaunchConfig(64, 2, 4),  # twice the programs: a shorter last wave
)
_GRADIENT_TRIALS = (
    LaunchConfig(64, 2, 1),  # programs that end sooner
    LaunchConfig(256, 8, 1),  # fewer readings of weights and norms
    LaunchConfig(128, 2, 1),  # two loads of every row under way in each thread
)
TRIALS: dict[tuple[str, int], tuple[LaunchConfig, ...]] = {
    ("statistics", 90): _STATISTICS_TRIALS,
    ("statistics", 100): _STATISTICS_TRIALS,
    ("gradient", 90): _GRADIENT_TRIALS,
    ("gradient", 100): _GRADIENT_TRIALS,
}


def launch_config(kernel: str, device: torch.device) -> LaunchConfig:
    return SHIPPED[kernel, family(capability(device))]


def group(students: int, teachers: int) -> int:
    """Students a program takes: all if they fit, else spread evenly; each further group reads the teachers again."""
    most = max(1, min(MOST_STUDENTS, MOST_PAIRS // teachers))
    return cdiv(students, cdiv(students, most))


def splits(programs: int, prototypes: int, block: int, processors: int) -> tuple[int, int]:
    """(splits, a power of two; prototypes a split, whole blocks) so that few samples fill the chip too."""
    blocks = cdiv(prototypes, block)
    count = 1
    while count < MOST_SPLITS and count * programs < PROGRAMS * processors and 2 * count * LEAST_TILES <= blocks:
        count *= 2
    return count, cdiv(blocks, count) * block


# Most students with two views, the paper's ten crops, most pairs; (type, students, teachers)
_SHIPPED = (("bf16", 10, 2), ("bf16", 16, 2), ("bf16", 4, 8), ("fp16", 10, 2), ("fp32", 16, 2))


def trial_candidates() -> Iterator[Candidate]:
    """The alternatives, for `gate --trials`."""
    for key, configs in TRIALS.items():
        for config in configs:
            yield candidate(key, config, "bf16")


def gate_candidates() -> Iterator[Candidate]:
    for dtype, students, teachers in _SHIPPED:
        for key, config in SHIPPED.items():
            yield candidate(key, config, dtype, students, teachers)
    buffers, results = ("partial", "weights"), ("norms", "loss")
    yield Candidate(
        name=f"distill_loss/merge/{MOST_SPLITS} splits",
        kernel=kernels.merge,
        signature=dict.fromkeys((*buffers, *results), "*fp32")
        | dict.fromkeys(("samples", "students", "groups"), "i32")
        | dict.fromkeys(("student_scale", "teacher_scale", "inverse_student_temp"), "fp32"),
        constexprs={"TEACHERS": 2, "SPLITS": MOST_SPLITS, "BLOCK": MERGED},
        aligned=(*buffers, *results),
        num_warps=1,
        programs=8,
        spills={100: 40},  # with Triton 3.8 alone, in a launch that reads a few numbers a row
    )


def candidate(
    key: tuple[str, int], config: LaunchConfig, dtype: str, students: int = 10, teachers: int = 2
) -> Candidate:
    """How `config` in the place of SHIPPED[key] compiles; dtype "bf16", "fp16" or "fp32"."""
    kernel, architecture = key
    vector = 4 if dtype == "fp32" else 8
    logits = {"student": f"*{dtype}", "teacher": f"*{dtype}", "center": "*fp32", "weights": "*fp32"}
    strides = {f"stride_{name}": "i64" for name in ("s", "sn", "t", "tn")}
    scales = {"student_scale": "fp32", "teacher_scale": "fp32"}
    sizes = {"samples": "i32", "students": "i32", "prototypes": "i32"}
    contiguous = {"stride_sk": 1, "stride_tk": 1, "GROUP": students, "TEACHERS": teachers}
    if kernel == "statistics":
        known = {"partial": "*fp32"}
        signature = logits | known | sizes | {"per_split": "i32"} | strides | scales
        constexprs = contiguous | {"LANES": config.lanes, "VECTOR": vector, "STAGES": config.stages}
        aligned = (*logits, *known, *strides, "prototypes", "per_split")
    else:
        known = {"norms": "*fp32", "upstream": "*fp32", "out": f"*{dtype}"}
        outputs = {f"stride_{name}": "i64" for name in ("o", "on")}
        signature = logits | known | sizes | strides | outputs | scales | {"inverse_student_temp": "fp32"}
        constexprs = contiguous | {"stride_ok": 1, "BLOCK": config.lanes * vector}
        aligned = (*logits, *known, *strides, *outputs, "prototypes")
    return Candidate(
        name=f"distill_loss/{kernel}/{dtype} S{students} T{teachers} {config.lanes} w{config.warps} s{config.stages}",
        kernel=getattr(kernels, kernel),
        signature=signature,
        constexprs=constexprs,
        aligned=aligned,
        num_warps=config.warps,
        num_stages=config.stages,
        architectures=(architecture,),
        async_copies=kernel == "statistics",
        programs=_programs(key, students, teachers, dtype) if config == SHIPPED[key] else 1,
    )


def _programs(key: tuple[str, int], students: int, teachers: int, dtype: str) -> int:
    """Side by side at least, so that one loads while another computes: four where the paper's crops are held."""
    kernel, architecture = key
    if kernel == "gradient":
        return 3
    return 4 if architecture > 80 and (students, teachers) == (10, 2) and dtype != "fp32" else 2
