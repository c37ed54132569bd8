"""distill_head_loss on Triton: launches of each kernel by chip, how rows are split, what the compile gate builds."""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from ..common.limits import WIDEST
from ..common.triton_runtime import capability, family, product_dtype
from ..gate.gate import Candidate
from . import triton_head_kernels as kernels

LEAST_WIDTH = 16  # the shortest inner dimension of a product
# Partial sums of the splits, all together.
MOST_PARTIAL_BYTES = 64 << 20


class LaunchConfig(NamedTuple):
    """How a kernel is launched.

    rows, columns: of the tile of logits at a time; the sums are rows x WIDTH.
    warps, stages: of the launch.
    overlap: exponentials run while tensor cores multiply; the student's tiles are then loaded twice. Of attend alone.
    bulk: rows come by the copy engine, through tensor descriptors; else by pointers.
    """

    rows: int
    columns: int
    warps: int
    stages: int
    overlap: bool = False
    bulk: bool = True


# (kernel, architecture). Sums of 128 x 256 take half the registers of 8 warps, so columns are few.
# 80 stands for every chip that is not one of the others: its tiles fit 99 KiB of shared memory, and 64 rows are 16 for
# each of 4 warps, the height of a product; 8 warps would each find half their logits twice.
# 90 overlaps in attend: a tile's exponentials and sums take about half as long as its two products, which else wait for
# them. The price, loading the student's tiles twice, is 32 bytes a cycle and processor from the second-level cache at
# full speed. In weight_gradient an overlap would write registers under a product in flight (gate/sass.py, hazards).
# On 100 products leave the registers alone, and the compiler overlaps them by itself.
SHIPPED: dict[tuple[str, int], LaunchConfig] = {
    ("attend teacher", 80): LaunchConfig(64, 32, 4, 2, bulk=False),
    ("attend teacher", 90): LaunchConfig(128, 64, 8, 2, overlap=True),
    ("attend teacher", 100): LaunchConfig(128, 64, 8, 2),
    ("attend student", 80): LaunchConfig(64, 32, 4, 2, bulk=False),
    ("attend student", 90): LaunchConfig(128, 64, 8, 2, overlap=True),
    ("attend student", 100): LaunchConfig(128, 64, 8, 3),  # one stream of tiles, not two: room for a third
    ("weight_gradient", 80): LaunchConfig(64, 32, 4, 2, bulk=False),
    ("weight_gradient", 90): LaunchConfig(128, 64, 8, 2),
    ("weight_gradient", 100): LaunchConfig(128, 64, 8, 2),
}
_PRODUCTS = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


# What else is worth timing, and may well be faster.
TRIALS: dict[tuple[str, int], tuple[LaunchConfig, ...]] = {
    ("attend teacher", 90): (
        LaunchConfig(128, 64, 8, 2),  # no pass more, and no registers held over
        LaunchConfig(128, 32, 8, 3, overlap=True),  # three tiles on their way, at smaller products
        LaunchConfig(128, 32, 8, 3),
    ),
    ("attend student", 90): (
        LaunchConfig(128, 64, 8, 3),  # every tile loaded once, and a third one on its way
        LaunchConfig(128, 128, 8, 2),  # half the rescaling of sums, half the barriers
        LaunchConfig(64, 64, 4, 2),  # two programs a processor: one multiplies while the other takes exponentials
        LaunchConfig(128, 32, 8, 3, overlap=True),
    ),
    ("weight_gradient", 90): (LaunchConfig(128, 32, 8, 3),),
}


def launch_config(kernel: str, device: torch.device) -> LaunchConfig:
    return SHIPPED[kernel, family(capability(device))]


def compute_dtype(dtype: torch.dtype) -> tl.dtype:
    """What the kernel multiplies in."""
    return _PRODUCTS[product_dtype(dtype)]


def headroom(dtype: torch.dtype) -> float:
    """Exponent of the largest exponentials: those of a flat row over 65536 prototypes would be too small for float16.

    Elsewhere 0: added to an exponent, it costs the digits of small ones.
    """
    return 15.0 if product_dtype(dtype) == torch.float16 else 0.0


@functools.cache
def splits(blocks: int, elements: int, length: int, columns: int, processors: int) -> tuple[int, int]:
    """(splits, length of one): the least time for `blocks` of rows, each by all of `length`, one program a processor.

    Time is counted in columns of logits: what the programs of one processor see one after another; the traffic of a
    partial sum, written and read, which takes as long as two; and the latency of one more in the merge, some sixteen.
    elements: of the sums of all rows.
    """
    tiles = triton.cdiv(length, columns)
    most = max(1, min(tiles, processors, MOST_PARTIAL_BYTES // (4 * elements)))

    def time(count: int) -> int:
        seen = triton.cdiv(blocks * count, processors) * triton.cdiv(tiles, count) * columns
        return seen + 2 * blocks * count + 16 * count

    each = triton.cdiv(tiles, min(range(1, most + 1), key=time))
    return triton.cdiv(tiles, each), each * columns


def candidate(key: tuple[str, int], config: LaunchConfig, dtype: str) -> Candidate:
    """How `config` in the place of SHIPPED[key] compiles; dtype "bf16" or "fp16"."""
    kernel, architecture = key
    return (_weight_gradient if kernel == "weight_gradient" else _attend)(kernel, dtype, config, architecture)


def trial_candidates() -> Iterator[Candidate]:
    """The alternatives, for `gate --trials`."""
    for key, configs in TRIALS.items():
        for config in configs:
            yield candidate(key, config, "bf16")


def gate_candidates() -> Iterator[Candidate]:
    for dtype in ("bf16", "fp16"):
        for key, config in SHIPPED.items():
            yield candidate(key, config, dtype)
    buffers = ("peaks", "totals", "sums")
    for kernel, others in (
        (kernels.finish_teacher, ("attended", "norm")),
        (kernels.finish_student, ("attended", "weights", "d_student", "norm", "loss")),
    ):
        sizes = ("rows", "splits") if kernel is kernels.finish_teacher else ("rows", "samples", "teachers", "splits")
        features = {} if kernel is kernels.finish_teacher else {"student": "*bf16", "inverse_temp": "fp32"}
        yield Candidate(
            name=f"distill_head_loss/{kernel.__name__}",
            kernel=kernel,
            signature=dict.fromkeys((*buffers, *others), "*fp32")
            | dict.fromkeys(sizes, "i32")
            | {"scale": "fp32"}
            | features,
            constexprs={"WIDTH": WIDEST, "BLOCK": 8, "HEADROOM": 15.0},
            aligned=(*buffers, *others, *(("student",) if features else ())),
        )


def _attend(kernel: str, dtype: str, config: LaunchConfig, architecture: int) -> Candidate:
    block = _source(dtype, config.columns, config)
    results = ("peaks", "totals", "sums")
    return Candidate(
        name=f"distill_head_loss/{kernel}/{_label(dtype, config)}",
        kernel=kernels.attend,
        signature={"queries": _source(dtype, config.rows, config), "keys": block, "values": block}
        | dict.fromkeys(("center", *results), "*fp32")
        | dict.fromkeys(("rows", "prototypes", "per_split"), "i32")
        | {"scale": "fp32"},
        constexprs={"CENTERED": kernel == "attend teacher", "EVEN": False, "HEADROOM": 15.0 if dtype == "fp16" else 0.0}
        | {"OVERLAP": config.overlap}
        | _constants(dtype, config),
        aligned=(
            "center",
            *results,
            *(() if config.bulk else ("queries", "keys", "values")),
            "rows",
            "prototypes",
            "per_split",
        ),
        num_warps=config.warps,
        num_stages=config.stages,
        architectures=(architecture,),
        wgmma=True,
        overlap=config.overlap,
        bulk_copies=config.bulk,
        async_copies=True,
    )


def _weight_gradient(kernel: str, dtype: str, config: LaunchConfig, architecture: int) -> Candidate:
    owned, streamed = (_source(dtype, size, config) for size in (config.rows, config.columns))
    sources = ("student_weight", "teacher_weight", "student", "teacher", "pulled")
    vectors = ("center", "student_norm", "teacher_norm", "factor")
    sizes = ("student_rows", "teacher_rows", "prototypes", "student_split", "teacher_split")
    return Candidate(
        name=f"distill_head_loss/{kernel}/{_label(dtype, config)}",
        kernel=kernels.weight_gradient,
        signature={"student_weight": owned, "teacher_weight": owned}
        | {"student": streamed, "teacher": streamed, "pulled": streamed}
        | dict.fromkeys(vectors, "*fp32")
        | {"out": f"*{dtype}"}
        | dict.fromkeys(sizes, "i32")
        | {"student_scale": "fp32", "teacher_scale": "fp32"},
        constexprs=_constants(dtype, config),
        aligned=(*vectors, "out", *sizes, *(() if config.bulk else sources)),
        num_warps=config.warps,
        num_stages=config.stages,
        architectures=(architecture,),
        wgmma=True,
        bulk_copies=config.bulk,
        async_copies=True,
    )


def _source(dtype: str, rows: int, config: LaunchConfig) -> str:
    return f"tensordesc<{dtype}[{rows},{WIDEST}]>" if config.bulk else f"*{dtype}"


def _constants(dtype: str, config: LaunchConfig) -> dict[str, object]:
    types = {"bf16": tl.bfloat16, "fp16": tl.float16}
    sizes = {"WIDTH": WIDEST, "ROWS": config.rows, "COLUMNS": config.columns}
    return sizes | {"BULK": config.bulk, "COMPUTE": types[dtype]}


def _label(dtype: str, config: LaunchConfig) -> str:
    overlap = " overlap" if config.overlap else ""
    return f"{dtype} {config.rows}x{config.columns} w{config.warps} s{config.stages}{overlap}"
