"""distill_loss on Triton: grids, buffers, and the operators that torch.compile and autograd see."""

from typing import Any

import torch
import triton
from torch import Tensor

from ..common.first_order import once
from ..common.triton_runtime import exponent_scale, multiprocessors, product_dtype
from . import triton_logits_kernels as kernels
from .pairs import pair_matrix
from .triton_logits_launch import MERGED, group, launch_config, splits


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
    and two numbers a row.
    """
    teacher_logits, center = teacher_logits.detach(), center.detach().float().contiguous()
    loss, _, _ = _forward(
        student_logits,
        teacher_logits,
        center,
        pair_matrix(pair_weights, student_logits, teacher_logits, center),
        student_temp,
        teacher_temp,
        inplace_backward,
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
    together, vector = group(students, teachers), 16 // student.element_size()
    config = launch_config("statistics", student.device)
    groups = triton.cdiv(students, together)
    count, per_split = splits(samples * groups, prototypes, config.lanes * vector, multiprocessors(student.device))

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=student.device)

    own = empty(2, count, students, samples)
    others = empty(3, count, groups, teachers, samples)
    student_norm, teacher_norm = empty(2, students, samples), empty(2, teachers, samples)
    shares = empty(students + teachers, samples)
    with torch.cuda.device_of(student):
        kernels.statistics[(samples, count, groups)](
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
            exponent_scale(student_temp),
            exponent_scale(teacher_temp),
            GROUP=together,
            TEACHERS=teachers,
            LANES=config.lanes,
            VECTOR=vector,
            STAGES=config.stages,
            num_warps=config.warps,
            num_stages=config.stages,
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
            exponent_scale(student_temp),
            exponent_scale(teacher_temp),
            1 / student_temp,
            TEACHERS=teachers,
            SPLITS=count,
            BLOCK=MERGED,
            num_warps=1,
        )
    return shares.sum(), student_norm, teacher_norm


@_forward.register_fake
def _(student, teacher, center, pairs, student_temp, teacher_temp, inplace_backward):
    norms = (center.new_empty(2, *tensor.shape[:2]) for tensor in (student, teacher))
    return center.new_empty(()), *norms


# What both forms of the gradient take; {} is where one of them says that it writes over the logits.
_GRADIENT = (
    "(Tensor upstream, Tensor{} student, Tensor teacher, Tensor center, Tensor pairs, Tensor student_norm, "
    "Tensor teacher_norm, float student_temp, float teacher_temp) -> "
)


@torch.library.custom_op("silc_kernels::distill_loss_gradient", mutates_args=(), schema=_GRADIENT.format("") + "Tensor")
def _gradient(upstream: Tensor, student: Tensor, *known: Any) -> Tensor:
    """d loss / d student, in its dtype."""
    out = torch.empty_like(student, dtype=product_dtype(student.dtype))
    _write_gradient(out, upstream, student, *known)
    return out.to(student.dtype)


@_gradient.register_fake
def _(upstream, student, *_):
    return torch.empty_like(student)


@torch.library.custom_op(
    "silc_kernels::distill_loss_gradient_", mutates_args={"student"}, schema=_GRADIENT.format("(a!)") + "()"
)
def _gradient_(upstream: Tensor, student: Tensor, *known: Any) -> None:
    """The same, over the logits."""
    _write_gradient(student, upstream, student, *known)


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
    together, config = group(students, teachers), launch_config("gradient", student.device)
    block = config.lanes * 16 // student.element_size()
    with torch.cuda.device_of(student):
        kernels.gradient[(samples * triton.cdiv(prototypes, block), triton.cdiv(students, together))](
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
            exponent_scale(student_temp),
            exponent_scale(teacher_temp),
            1 / student_temp,
            GROUP=together,
            TEACHERS=teachers,
            BLOCK=block,
            num_warps=config.warps,
            num_stages=config.stages,
        )


def _keep(ctx, inputs, output) -> None:
    student, teacher, center, pairs, student_temp, teacher_temp, ctx.inplace = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(student, teacher, center, pairs, *output[1:])
    ctx.temps = student_temp, teacher_temp


def _backward(ctx, upstream, *_):
    student, *others = ctx.saved_tensors
    with torch.no_grad():
        if ctx.inplace:
            # It shares the version counter of the logits: autograd refuses a second backward over what is overwritten.
            out = student.detach()
            _gradient_(upstream, out, *others, *ctx.temps)
        else:
            out = _gradient(upstream, student, *others, *ctx.temps)
    return once("distill_loss", out, student, upstream), None, None, None, None, None, None


_forward.register_autograd(_backward, setup_context=_keep)
