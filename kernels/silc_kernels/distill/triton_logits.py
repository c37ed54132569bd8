"""distill_loss on Triton: grids, buffers, and the operators that torch.compile and autograd see."""

import functools
from typing import Any

import torch
from torch import Tensor

from ..common.direct import cdiv, eager
from ..common.first_order import once
from ..common.launcher import launcher
from ..common.triton_runtime import exponent_scale, multiprocessors, product_dtype
from . import triton_logits_kernels as kernels
from .host import below_autograd, operator, single
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
    function = functools.partial(_LogitsLoss.apply, True) if eager((student_logits,)) else _forward
    loss, _ = function(
        student_logits,
        teacher_logits.detach() if teacher_logits.requires_grad else teacher_logits,
        single(center),
        pair_matrix(pair_weights, student_logits, teacher_logits),
        student_temp,
        teacher_temp,
        inplace_backward,
    )
    return loss


def _run(
    student: Tensor,
    teacher: Tensor,
    center: Tensor,
    pairs: Tensor,
    student_temp: float,
    teacher_temp: float,
    inplace_backward: bool,
) -> tuple[Tensor, Tensor]:
    """(loss [], norms [2, S + T, N] of the students and the teachers), float32.

    A norm is a row's maximum, and log2 of its sum of exponentials over the temperature less that maximum.
    """
    (students, samples, prototypes), teachers = student.shape, teacher.shape[0]
    together, vector = group(students, teachers), _neighbours(student, teacher)
    config = launch_config("statistics", student.device)
    groups = cdiv(students, together)
    count, per_split = splits(samples * groups, prototypes, config.lanes * vector, multiprocessors(student.device))

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=student.device)

    partial = empty(count * samples * (2 * students + 3 * groups * teachers))
    norms, shares = empty(2, students + teachers, samples), empty(students + teachers, samples)
    scales = exponent_scale(student_temp), exponent_scale(teacher_temp)
    with torch.cuda.device_of(student):
        launcher(
            kernels.statistics,
            GROUP=together,
            TEACHERS=teachers,
            LANES=config.lanes,
            VECTOR=vector,
            STAGES=config.stages,
            num_warps=config.warps,
            num_stages=config.stages,
        )(
            (samples, count, groups),
            student,
            teacher,
            center,
            pairs,
            partial,
            samples,
            students,
            prototypes,
            per_split,
            *student.stride(),
            *teacher.stride(),
            *scales,
        )
        launcher(kernels.merge, TEACHERS=teachers, SPLITS=count, BLOCK=MERGED, num_warps=1)(
            (cdiv(samples, MERGED), students + teachers),
            partial,
            pairs,
            norms,
            shares,
            samples,
            students,
            groups,
            *scales,
            1 / student_temp,
        )
    return shares.sum(), norms


def _neighbours(student: Tensor, *others: Tensor) -> int:
    """Logits of a row that a lane takes: 16 bytes. Half, where the rows' places are no multiples of 16 logits: they
    are then loaded one by one, each into a register of its own.
    """
    even = all(stride % 16 == 0 for tensor in (student, *others) for stride in tensor.stride()[:2])
    return (16 if even else 8) // student.element_size()


def _fake(student, teacher, center, pairs, student_temp, teacher_temp, inplace_backward):
    norms = center.new_empty(2, student.shape[0] + teacher.shape[0], student.shape[1])
    return center.new_empty(()), norms


# What both forms of the gradient take; {} is where one of them says that it writes over the logits.
_GRADIENT = (
    "(Tensor upstream, Tensor{} student, Tensor teacher, Tensor center, Tensor pairs, Tensor norms, "
    "float student_temp, float teacher_temp) -> "
)


def _run_gradient(upstream: Tensor, student: Tensor, *known: Any) -> Tensor:
    """d loss / d student, in its dtype."""
    out = torch.empty_like(student, dtype=product_dtype(student.dtype))
    _write_gradient(out, upstream, student, *known)
    return out.to(student.dtype)


def _fake_gradient(upstream, student, *_):
    return torch.empty_like(student)


_gradient = operator("distill_loss_gradient" + _GRADIENT.format("") + "Tensor", _run_gradient, _fake_gradient)


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
    norms: Tensor,
    student_temp: float,
    teacher_temp: float,
) -> None:
    (students, samples, prototypes), teachers = student.shape, teacher.shape[0]
    together, config = group(students, teachers), launch_config("gradient", student.device)
    block = config.lanes * _neighbours(student, teacher, out)
    with torch.cuda.device_of(student):
        launcher(
            kernels.gradient,
            GROUP=together,
            TEACHERS=teachers,
            BLOCK=block,
            num_warps=config.warps,
            num_stages=config.stages,
        )(
            (samples * cdiv(prototypes, block), cdiv(students, together)),
            student,
            teacher,
            center,
            pairs,
            norms,
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
        )


class _LogitsLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, direct, *inputs):
        loss, norms = _run(*inputs) if direct else below_autograd(_forward, *inputs)
        *tensors, student_temp, teacher_temp, ctx.inplace = inputs
        ctx.mark_non_differentiable(norms)
        ctx.set_materialize_grads(False)  # of these
        ctx.save_for_backward(*tensors, norms)
        ctx.temps = student_temp, teacher_temp
        return loss, norms

    @staticmethod
    def backward(ctx, upstream, _):
        if upstream is None:
            return (None,) * 8
        student, *others = ctx.saved_tensors
        with torch.no_grad():
            if ctx.inplace:
                # It shares the version counter of the logits: autograd refuses a second backward over what is
                # overwritten.
                out = student.detach()
                _gradient_(upstream, out, *others, *ctx.temps)
            else:
                find = _run_gradient if eager((upstream, student)) else _gradient
                out = find(upstream, student, *others, *ctx.temps)
        return None, once("distill_loss", out, student, upstream), None, None, None, None, None, None


_forward = operator(
    "distill_loss(Tensor student, Tensor teacher, Tensor center, Tensor pairs, float student_temp, float teacher_temp, "
    "bool inplace_backward) -> (Tensor, Tensor)",
    _run,
    _fake,
    gradient=functools.partial(_LogitsLoss.apply, False),
)
