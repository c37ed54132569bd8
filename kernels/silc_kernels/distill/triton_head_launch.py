"""distill_head_loss on Triton: launches of each kernel by chip, how rows are split, what the compile gate builds."""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import triton.language as tl

from ..common.direct import cdiv
from ..common.limits import WIDEST
from ..common.triton_runtime import capability, family, product_dtype
from ..gate.gate import Candidate
from . import triton_bounded_kernels as bounded_kernels
from . import triton_head_gradient_kernels as gradient_kernels
from . import triton_head_kernels as kernels

LEAST_WIDTH = 16  # the shortest inner dimension of a product
# Partial sums of the splits, all together.
MOST_PARTIAL_BYTES = 64 << 20
STARTING = 2  # tiles that a program could have done while it starts and ends
FINISHED = 8  # rows of a program that merges splits
REACH_BLOCK = 16  # rows at a time of a program that measures them
MOST_PARTS = 256  # stretches of prototypes that are measured apart


class LaunchConfig(NamedTuple):
    """How a kernel is launched.

    rows, columns: of the tile of logits at a time; the sums are rows x WIDTH.
    warps, stages: of the launch.
    overlap: exponentials run while tensor cores multiply; the student's tiles are loaded twice. Of attention alone.
    bulk: rows come by the copy engine, through tensor descriptors; else by pointers.
    programs: how many run on a multiprocessor side by side, to which the gate holds the compiler.
    """

    rows: int
    columns: int
    warps: int
    stages: int
    overlap: bool = False
    bulk: bool = True
    programs: int = 1


# (kernel, architecture). "bounded": attention of the rows whose logits are bounded, None: all take the other form.
# Sums of 128 x 256 take half the registers of 8 warps, so columns are few.
# 80 stands for every chip that is not one of the others: its tiles fit 99 KiB of shared memory, and 64 rows are 16 for
# each of 4 warps, the height of a product; 8 warps would each find half their logits twice.
# 90 overlaps in attend: a tile's exponentials and sums take about half as long as its two products, which else wait for
# them. The price, loading the student's tiles twice, is 32 bytes a cycle and processor from the second-level cache at
# full speed. In weight_gradient an overlap would write registers under a product in flight (gate/sass.py, hazards).
# On 100 products leave the registers alone, and the compiler overlaps them by itself.
# bounded student on 90: 98,320 bytes of shared memory and 202 registers for 128 threads, so that two programs share a
# multiprocessor: one multiplies while the other takes exponentials, and each tile is loaded once by each. The teacher's
# keys are not its values: two programs would load 64 bytes a cycle, so one of 128 rows overlaps instead.
SHIPPED: dict[tuple[str, int], LaunchConfig | None] = {
    ("bounded teacher", 80): LaunchConfig(64, 32, 4, 2, bulk=False, programs=2),
    ("bounded teacher", 90): LaunchConfig(128, 32, 8, 3, overlap=True),
    ("bounded teacher", 100): LaunchConfig(128, 32, 8, 3),  # of 64 columns Triton 3.8 spills 48 bytes
    ("bounded student", 80): LaunchConfig(64, 32, 4, 2, bulk=False, programs=2),
    ("bounded student", 90): LaunchConfig(64, 64, 4, 2, programs=2),
    ("bounded student", 100): LaunchConfig(128, 64, 8, 3),
    ("attend teacher", 80): LaunchConfig(64, 32, 4, 2, bulk=False, programs=2),
    ("attend teacher", 90): LaunchConfig(128, 64, 8, 2, overlap=True),
    ("attend teacher", 100): LaunchConfig(128, 64, 8, 2),
    ("attend student", 80): LaunchConfig(64, 32, 4, 2, bulk=False, programs=2),
    ("attend student", 90): LaunchConfig(128, 64, 8, 2, overlap=True),
    ("attend student", 100): LaunchConfig(128, 64, 8, 3),  # one stream of tiles, not two: room for a third
    ("weight_gradient", 80): LaunchConfig(64, 32, 4, 2, bulk=False, programs=2),
    ("weight_gradient", 90): LaunchConfig(128, 64, 8, 2),
    ("weight_gradient", 100): LaunchConfig(128, 64, 8, 2),
}
# Of what ships on 90: instructions a turn while tensor cores wait, as Triton 3.6 and 3.8 compile it, and a little more.
_BETWEEN = {
    ("bounded teacher", SHIPPED["bounded teacher", 90]): 56,  # 49, 47
    ("bounded student", SHIPPED["bounded student", 90]): 120,  # 112, 111; its neighbour multiplies meanwhile
    ("attend teacher", SHIPPED["attend teacher", 90]): 250,  # 233, 241
    ("attend student", SHIPPED["attend student", 90]): 205,  # 196, 197
    ("weight_gradient", SHIPPED["weight_gradient", 90]): 250,  # 235, 236
}
_PRODUCTS = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


# What else is worth timing, and may well be faster.
TRIALS: dict[tuple[str, int], tuple[LaunchConfig | None, ...]] = {
    ("bounded teacher", 90): (
        None,
        LaunchConfig(128, 64, 8, 2, overlap=True),  # half the barriers; 248 registers
        LaunchConfig(128, 64, 8, 2),
        LaunchConfig(64, 32, 4, 2, overlap=True, programs=2),  # twice the loads
    ),
    ("bounded student", 90): (
        None,
        LaunchConfig(128, 64, 8, 2, overlap=True),  # one program, every tile loaded twice
        LaunchConfig(128, 64, 8, 3),  # half the loads of what ships
        LaunchConfig(128, 128, 8, 2),
        LaunchConfig(64, 64, 4, 2, overlap=True),  # 235 registers: one program
    ),
    ("attend teacher", 90): (
        LaunchConfig(128, 64, 8, 2),  # no pass more, and no registers held over
        LaunchConfig(128, 32, 8, 3, overlap=True),  # three tiles on their way, at smaller products
        LaunchConfig(128, 32, 8, 3),
    ),
    ("attend student", 90): (
        LaunchConfig(128, 64, 8, 3),  # every tile loaded once, and a third one on its way
        LaunchConfig(128, 128, 8, 2),  # half the rescaling of sums, half the barriers
        LaunchConfig(64, 64, 4, 2, programs=2),  # one multiplies while the other takes exponentials
        LaunchConfig(128, 32, 8, 3, overlap=True),
    ),
    ("weight_gradient", 90): (LaunchConfig(128, 32, 8, 3),),
}


class Launches(NamedTuple):
    """Of one call: attention by either form, for the teacher or the student."""

    bounded: LaunchConfig | None
    online: LaunchConfig

    @property
    def usual(self) -> LaunchConfig:
        return self.bounded or self.online

    @property
    def columns(self) -> int:
        return max(config.columns for config in self if config)

    @property
    def group(self) -> int:
        """Rows that take one form together; 0: all rows take the online form."""
        return max(self.bounded.rows, self.online.rows) if self.bounded else 0


def attention(who: str, dtype: torch.dtype, device: torch.device) -> Launches:
    """who: "teacher" or "student"."""
    chip = family(capability(device))
    # Exponentials that are not taken below a maximum do not fit float16.
    bounded = None if dtype == torch.float16 else SHIPPED[f"bounded {who}", chip]
    return Launches(bounded, _present(SHIPPED[f"attend {who}", chip]))


def power_of_two(least: int) -> int:
    """The smallest that is not below `least`."""
    return 1 << (least - 1).bit_length()


@functools.cache
def parts(prototypes: int) -> int:
    """Stretches of prototypes that are measured apart."""
    return min(MOST_PARTS, power_of_two(cdiv(prototypes, REACH_BLOCK)))


def launch_config(kernel: str, device: torch.device) -> LaunchConfig:
    return _present(SHIPPED[kernel, family(capability(device))])


def _present(config: LaunchConfig | None) -> LaunchConfig:
    assert config is not None  # only the bounded form can be left out
    return config


def compute_dtype(dtype: torch.dtype) -> tl.dtype:
    """What the kernel multiplies in."""
    return _PRODUCTS[product_dtype(dtype)]


def headroom(dtype: torch.dtype) -> float:
    """Exponent of the largest exponentials: those of a flat row over 65536 prototypes would be too small for float16.

    Elsewhere 0: added to an exponent, it costs the digits of small ones.
    """
    return 15.0 if product_dtype(dtype) == torch.float16 else 0.0


def side_by_side(config: LaunchConfig, device: torch.device) -> int:
    """Programs that one multiprocessor runs at a time, of rows of the greatest width.

    As many as stated where the gate compiles for the very chip; those of its family may have less shared memory.
    """
    architecture = capability(device)
    return config.programs if architecture == family(architecture) else 1


@functools.cache
def splits(blocks: int, elements: int, length: int, columns: int, processors: int, side: int) -> tuple[int, int]:
    """(splits, length of all but the last, which has what is left): the least time for `blocks` of rows, each by all of
    `length`.

    `side` programs run on each of `processors` side by side and share its time. The last splits start last, and fill
    what the others leave idle. Time is counted in columns of one block's logits: of the programs of one processor; the
    traffic of a partial sum, written and read, which takes as long as two; and the latency of one more in the merge,
    some sixteen. elements: of the sums of all rows.
    """
    tiles, slots = cdiv(length, columns), processors * side
    most = max(1, min(tiles, slots, MOST_PARTIAL_BYTES // (4 * elements)))

    def time(each: int) -> int:
        count = cdiv(tiles, each)
        last = tiles - (count - 1) * each + STARTING
        ends = makespan(blocks * (count - 1), each + STARTING, blocks, last, slots)
        return ends * side * columns + 2 * blocks * count + 16 * count

    each = min(range(tiles, cdiv(tiles, most) - 1, -1), key=time)
    return cdiv(tiles, each), each * columns


def makespan(many: int, each: int, more: int, last: int, slots: int) -> int:
    """When all programs have ended: `many` that take `each`, then `more` that take `last`, at most as long; each starts
    in the slot that is free first.
    """
    waves, busy = divmod(many, slots)
    early, late = waves * each, (waves + 1) * each  # when slots are free: some now, `busy` ones a program later
    if not busy:
        return early + cdiv(more, slots) * last
    free, rounds = slots - busy, each // last
    if more <= rounds * free:
        return late
    early += rounds * last  # at most `late`, and less than one program before it: from here on slots take turns
    whole, rest = divmod(more - rounds * free, slots)
    return max(early + (whole + (rest > 0)) * last, late + (whole + (rest > free)) * last)


def candidate(key: tuple[str, int], config: LaunchConfig, dtype: str) -> Candidate:
    """How `config` in the place of SHIPPED[key] compiles; dtype "bf16" or "fp16"."""
    kernel, architecture = key
    return (_weight_gradient if kernel == "weight_gradient" else _attend)(kernel, dtype, config, architecture)


def trial_candidates() -> Iterator[Candidate]:
    """The alternatives, for `gate --trials`."""
    for key, configs in TRIALS.items():
        for config in configs:
            if config:
                yield candidate(key, config, "bf16")


def gate_candidates() -> Iterator[Candidate]:
    for dtype in ("bf16", "fp16"):
        for key, config in SHIPPED.items():
            if config and not (dtype == "fp16" and key[0].startswith("bounded")):
                yield candidate(key, config, dtype)
    merged = dict.fromkeys(("partial", "attended", "norms"), "*fp32")
    yield _small(kernels.finish_teacher, merged, ("rows", "students", "splits"), ("scale",), {"HEADROOM": 15.0})
    results = dict.fromkeys(("weights", "d_student", "loss"), "*fp32")
    rows: tuple[str, ...] = ("rows", "samples", "teachers", "width", "splits")
    pointers, scales = merged | results | {"student": "*bf16"}, ("scale", "inverse_temp")
    yield _small(kernels.finish_student, pointers, rows, scales, {"HEADROOM": 15.0})
    features = dict.fromkeys(("student", "teacher", "weight", "teacher_weight"), "*bf16")
    found = dict.fromkeys(("center", "out", "shift"), "*fp32")
    sizes = ("student_rows", "teacher_rows", "prototypes", "padded")
    yield _small(
        bounded_kernels.reach, features | found, sizes, ("teacher_scale",), {"BLOCK": REACH_BLOCK, "PARTS": MOST_PARTS}
    )
    known = {"student": "*bf16", "pulled": "*bf16"} | dict.fromkeys(("weights", "norms", "adjusted"), "*fp32")
    constants = {"STUDENTS": 16, "TEACHERS": 2, "HEADROOM": 15.0}
    yield _small(gradient_kernels.adjust, known, ("samples", "students", "teachers"), ("inverse_temp",), constants)


def _small(
    kernel: Any, pointers: dict[str, str], sizes: tuple[str, ...], scales: tuple[str, ...], constants: dict[str, Any]
) -> Candidate:
    """A kernel with 4 warps, of rows of the greatest width."""
    return Candidate(
        name=f"distill_head_loss/{kernel.__name__}",
        kernel=kernel,
        signature=pointers | dict.fromkeys(sizes, "i32") | dict.fromkeys(scales, "fp32"),
        constexprs={"WIDTH": WIDEST, "BLOCK": FINISHED} | constants,
        aligned=tuple(pointers),
        programs=4,
    )


def _attend(kernel: str, dtype: str, config: LaunchConfig, architecture: int) -> Candidate:
    bounded, teacher = kernel.startswith("bounded"), kernel.endswith("teacher")
    block = _source(dtype, config.columns, config)
    vector, form = ("shift", {}) if bounded else ("center", {"HEADROOM": 15.0 if dtype == "fp16" else 0.0})
    found = (vector, "reached", "partial")
    sizes = ("rows", "students", "prototypes", "per_split")
    # EVEN where what ships is; beside it the online form, which masks always where it overlaps.
    constexprs = {"CENTERED": teacher, "EVEN": bounded, "GROUP": 0 if dtype == "fp16" else 128, "PARTS": MOST_PARTS}
    return Candidate(
        name=f"distill_head_loss/{kernel}/{_label(dtype, config)}",
        kernel=bounded_kernels.attend_bounded if bounded else kernels.attend,
        signature={"queries": _source(dtype, config.rows, config), "keys": block, "values": block}
        | dict.fromkeys(found, "*fp32")
        | dict.fromkeys(sizes, "i32")
        | {"scale": "fp32"},
        constexprs=constexprs | {"OVERLAP": config.overlap} | form | _constants(dtype, config),
        aligned=(*found, *sizes, *(() if config.bulk else ("queries", "keys", "values"))),
        num_warps=config.warps,
        num_stages=config.stages,
        architectures=(architecture,),
        wgmma=True,
        overlap=config.overlap,
        bulk_copies=config.bulk,
        async_copies=True,
        programs=config.programs,
        between=_BETWEEN.get((kernel, config)),
        # Pointers, stored before the loop and read behind it, once a program; those of float16 with Triton 3.8 alone.
        spills={} if bounded else {100: 8 if dtype == "bf16" else 16},
    )


def _weight_gradient(kernel: str, dtype: str, config: LaunchConfig, architecture: int) -> Candidate:
    owned, streamed = (_source(dtype, size, config) for size in (config.rows, config.columns))
    sources = ("student_weight", "teacher_weight", "student", "teacher", "pulled")
    vectors = ("center", "adjusted", "upstream")
    sizes = ("student_rows", "teacher_rows", "prototypes", "width", "student_split", "teacher_split")
    return Candidate(
        name=f"distill_head_loss/{kernel}/{_label(dtype, config)}",
        kernel=gradient_kernels.weight_gradient,
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
        programs=config.programs,
        between=_BETWEEN.get((kernel, config)),
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
