"""distill_loss on Triton: grids, buffers, and the operators that torch.compile and autograd see."""

import math
from collections.abc import Iterator

import torch
import triton
from torch import Tensor

from ..reference.pairs import pair_matrix
from . import distill_kernels as kernels
from .gate import Candidate
from .runtime import multiprocessors, product_dtype

LANES, WARPS, STAGES = 128, 4, 3
# What fits the registers of a lane: statistics of so many students, weights of so many pairs.
MOST_STUDENTS, MOST_PAIRS = 16, 32
# Programs for each multiprocessor that hide the latency of memory and a ragged last wave.
PROGRAMS = 8
LEAST_TILES, MOST_SPLITS = 4, 64
MERGED = 32  # samples


def distill_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    center: Tensor,
    *,
    student_temp: float,
    teacher_temp: float,
    pair_weights: Tensor | None = None,
    inplace_backward: bool = False,
) -> Tensor:
    """`silc_kernels.distill_loss` on Triton; arguments are not checked.

    Passes over the logits: one in the forward, one in the backward, which also writes the gradient. Kept: the inputs
    and two numbers a row. Compiled code plans its own memory: there `inplace_backward` changes nothing.
    """
    teacher_logits, center = teacher_logits.detach(), center.detach().float().contiguous()
    loss, _, _ = _forward(
        student_logits,
        teacher_logits,
        center,
        pair_matrix(pair_weights, student_logits, teacher_logits, center),
        student_temp,
        teacher_temp,
        inplace_backward and not torch.compiler.is_compiling(),
    )
    return loss


@torch.library.custom_op("silc_kernels::distill_loss", mutates_args=())
def _forward(
    student: Tensor,
    teacher: Tensor,
    center: Tensor,
    pairs: Tensor,
    student_temp: float,
    teacher_temp: float,
    inplace_backward: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss [], norms of the students [2, S, N], of the teachers [2, T, N]), float32.

    A norm is a row's maximum, and log2 of its sum of exponentials over the temperature less that maximum.
    """
    (students, samples, prototypes), teachers = student.shape, teacher.shape[0]
    group = _group(students, teachers)
    groups = triton.cdiv(students, group)
    vector = 16 // student.element_size()
    splits, per_split = _splits(samples * groups, prototypes, LANES * vector, multiprocessors(student.device))

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=student.device)

    own = empty(2, splits, students, samples)
    others = empty(3, splits, groups, teachers, samples)
    student_norm, teacher_norm = empty(2, students, samples), empty(2, teachers, samples)
    shares = empty(students + teachers, samples)
    with torch.cuda.device_of(student):
        kernels.statistics[(samples, splits, groups)](
            student,
            teacher,
            center,
            pairs,
            *own,
            *others,
            samples,
            students,
            prototypes,
            per_split,
            *student.stride(),
            *teacher.stride(),
            _scale(student_temp),
            _scale(teacher_temp),
            GROUP=group,
            TEACHERS=teachers,
            LANES=LANES,
            VECTOR=vector,
            STAGES=STAGES,
            num_warps=WARPS,
        )
        kernels.merge[(triton.cdiv(samples, MERGED), students + teachers)](
            *own,
            *others,
            pairs,
            student_norm,
            teacher_norm,
            shares,
            samples,
            students,
            groups,
            _scale(student_temp),
            _scale(teacher_temp),
            1 / student_temp,
            TEACHERS=teachers,
            SPLITS=splits,
            BLOCK=MERGED,
            num_warps=1,
        )
    return shares.sum(), student_norm, teacher_norm


@_forward.register_fake
def _(student, teacher, center, pairs, student_temp, teacher_temp, inplace_backward):
    norms = (center.new_empty(2, *tensor.shape[:2]) for tensor in (student, teacher))
    return center.new_empty(()), *norms


@torch.library.custom_op("silc_kernels::distill_loss_gradient", mutates_args=())
def _gradient(
    upstream: Tensor,
    student: Tensor,
    teacher: Tensor,
    center: Tensor,
    pairs: Tensor,
    student_norm: Tensor,
    teacher_norm: Tensor,
    student_temp: float,
    teacher_temp: float,
) -> Tensor:
    """d loss / d student, in its dtype."""
    out = torch.empty_like(student, dtype=product_dtype(student.dtype))
    _write_gradient(
        out, upstream, student, teacher, center, pairs, student_norm, teacher_norm, student_temp, teacher_temp
    )
    return out.to(student.dtype)


@_gradient.register_fake
def _(upstream, student, *_):
    return torch.empty_like(student)


@torch.library.custom_op("silc_kernels::distill_loss_gradient_", mutates_args={"student"})
def _gradient_(
    upstream: Tensor,
    student: Tensor,
    teacher: Tensor,
    center: Tensor,
    pairs: Tensor,
    student_norm: Tensor,
    teacher_norm: Tensor,
    student_temp: float,
    teacher_temp: float,
) -> None:
    """The same, over the logits."""
    _write_gradient(
        student, upstream, student, teacher, center, pairs, student_norm, teacher_norm, student_temp, teacher_temp
    )


def _write_gradient(
    out: Tensor,
    upstream: Tensor,
    student: Tensor,
    teacher: Tensor,
    center: Tensor,
    pairs: Tensor,
    student_norm: Tensor,
    teacher_norm: Tensor,
    student_temp: float,
    teacher_temp: float,
) -> None:
    (students, samples, prototypes), teachers = student.shape, teacher.shape[0]
    group = _group(students, teachers)
    block = LANES * 16 // student.element_size()
    with torch.cuda.device_of(student):
        kernels.gradient[(samples * triton.cdiv(prototypes, block), triton.cdiv(students, group))](
            student,
            teacher,
            center,
            pairs,
            student_norm,
            teacher_norm,
            upstream,
            out,
            samples,
            students,
            prototypes,
            *student.stride(),
            *teacher.stride(),
            *out.stride(),
            _scale(student_temp),
            _scale(teacher_temp),
            1 / student_temp,
            GROUP=group,
            TEACHERS=teachers,
            BLOCK=block,
            num_warps=WARPS,
        )


def _keep(ctx, inputs, output) -> None:
    student, teacher, center, pairs, student_temp, teacher_temp, ctx.inplace = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(student, teacher, center, pairs, *output[1:])
    ctx.temps = student_temp, teacher_temp


def _backward(ctx, upstream, *_):
    student, *others = ctx.saved_tensors
    if ctx.inplace:
        # It shares the version counter of the logits: autograd refuses a second backward over what is overwritten.
        out = student.detach()
        _gradient_(upstream, out, *others, *ctx.temps)
    else:
        out = _gradient(upstream, student, *others, *ctx.temps)
    return out, None, None, None, None, None, None


_forward.register_autograd(_backward, setup_context=_keep)


def _scale(temp: float) -> float:
    return math.log2(math.e) / temp


def _group(students: int, teachers: int) -> int:
    """Students a program takes: all if they fit, else spread evenly; each further group reads the teachers again."""
    most = max(1, min(MOST_STUDENTS, MOST_PAIRS // teachers))
    return triton.cdiv(students, triton.cdiv(students, most))


def _splits(programs: int, prototypes: int, tile: int, processors: int) -> tuple[int, int]:
    """(splits, a power of two; prototypes a split, whole tiles) so that few samples fill the chip too."""
    tiles = triton.cdiv(prototypes, tile)
    splits = 1
    while splits < MOST_SPLITS and splits * programs < PROGRAMS * processors and 2 * splits * LEAST_TILES <= tiles:
        splits *= 2
    return splits, triton.cdiv(tiles, splits) * tile


# Most students with two views, the paper's ten crops, most pairs; (type, students, teachers)
_SHIPPED = (("bf16", 10, 2), ("bf16", 16, 2), ("bf16", 4, 8), ("fp16", 10, 2), ("fp32", 16, 2))


def gate_candidates() -> Iterator[Candidate]:
    for dtype, group, teachers in _SHIPPED:
        vector = 4 if dtype == "fp32" else 8
        logits = {"student": f"*{dtype}", "teacher": f"*{dtype}", "center": "*fp32", "weights": "*fp32"}
        strides = {f"stride_{name}": "i64" for name in ("s", "sn", "t", "tn")}
        scales = {"student_scale": "fp32", "teacher_scale": "fp32"}
        sizes = {"samples": "i32", "students": "i32", "prototypes": "i32"}
        contiguous = {"stride_sk": 1, "stride_tk": 1, "GROUP": group, "TEACHERS": teachers}
        partial = ("student_peak", "student_total", "teacher_peak", "teacher_total", "cross")
        aligned = (*logits, *strides, "prototypes")
        yield Candidate(
            name=f"distill_loss/statistics/{dtype} S{group} T{teachers}",
            kernel=kernels.statistics,
            signature=logits | dict.fromkeys(partial, "*fp32") | sizes | {"per_split": "i32"} | strides | scales,
            constexprs=contiguous | {"LANES": LANES, "VECTOR": vector, "STAGES": STAGES},
            aligned=(*aligned, *partial, "per_split"),
            num_warps=WARPS,
            async_copies=True,
        )
        outputs = {f"stride_{name}": "i64" for name in ("o", "on")}
        known = {"student_norm": "*fp32", "teacher_norm": "*fp32", "upstream": "*fp32", "out": f"*{dtype}"}
        yield Candidate(
            name=f"distill_loss/gradient/{dtype} S{group} T{teachers}",
            kernel=kernels.gradient,
            signature=logits | known | sizes | strides | outputs | scales | {"inverse_student_temp": "fp32"},
            constexprs=contiguous | {"stride_ok": 1, "BLOCK": LANES * vector},
            aligned=(*aligned, *known, *outputs),
            num_warps=WARPS,
        )
    buffers = ("student_peak", "student_total", "teacher_peak", "teacher_total", "cross", "weights")
    results = ("student_norm", "teacher_norm", "loss")
    yield Candidate(
        name=f"distill_loss/merge/{MOST_SPLITS} splits",
        kernel=kernels.merge,
        signature=dict.fromkeys((*buffers, *results), "*fp32")
        | dict.fromkeys(("samples", "students", "groups"), "i32")
        | dict.fromkeys(("student_scale", "teacher_scale", "inverse_student_temp"), "fp32"),
        constexprs={"TEACHERS": 2, "SPLITS": MOST_SPLITS, "BLOCK": MERGED},
        aligned=(*buffers, *results),
        num_warps=1,
    )
