"""Self-distillation cross-entropy (SILC, arXiv 2310.13355, equation of L_self; DINO, arXiv 2104.14294, eq. 1)."""

import torch
from torch import Tensor

from ..common import dispatch
from ..common.checks import FLOATS, check_float, check_pair_weights, check_savable, check_shape, check_temperature
from . import torch_head, torch_logits

for _op, _torch, _triton in (
    ("distill_loss", torch_logits.distill_loss, "silc_kernels.distill.triton_logits"),
    ("distill_head_loss", torch_head.distill_head_loss, "silc_kernels.distill.triton_head"),
):
    dispatch.register(_op, "torch", _torch)
    dispatch.register(_op, "triton", dispatch.later(_triton, _op), dispatch.triton_takes(_op))


def distill_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    center: Tensor,
    *,
    student_temp: float,
    teacher_temp: float,
    pair_weights: Tensor | None = None,
    inplace_backward: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Cross-entropy between centered, sharpened teacher and student, over all pairs of crops.

        sum_n sum_st w_st H(softmax((z_t - c) / tau_t), softmax(z_s / tau_s)) / (N sum_st w_st)

    Args:
        student_logits: [S, N, K], S crops of N samples over K prototypes. The only input that gets a gradient.
        teacher_logits: [T, N, K].
        center: [K].
        student_temp, teacher_temp: tau_s and tau_t, above 0.
        pair_weights: [S, T] of any scale, finite, not negative, not all zero; None: every pair counts 1. On a GPU the
            first call with a tensor, or with one changed in place, waits for its values; on the CPU none waits. Where
            they cannot be read (compiled code, a CUDA graph) wrong ones make the loss NaN.
        inplace_backward: write the gradient over student_logits. Saves one [S, N, K] buffer; the logits must then
            serve no other backward (a linear layer does not need its output), and no two of them share memory.
            Compiled code plans its own memory: no effect there.
        backend: "auto", or a name from `dispatch.report`.

    Returns:
        scalar, float32; float64 where student_logits are, whatever the dtype of the teacher and the center.

    Raises:
        ValueError: a shape, dtype, device, temperature or weight that does not fit.
        RuntimeError: from the backward, where an input was changed in place since, and from a second derivative.
    """
    op = "distill_loss"
    if not _alike(student_logits, teacher_logits, center) or center.shape != student_logits.shape[2:]:
        check_float(op, student_logits=student_logits, teacher_logits=teacher_logits, center=center)
        check_shape(op, "student_logits", student_logits, (None, None, None), "[S, N, K]")
        _, samples, prototypes = student_logits.shape
        check_shape(op, "teacher_logits", teacher_logits, (None, samples, prototypes), "[T, N, K]")
        check_shape(op, "center", center, (prototypes,), "[K]")
    check_temperature(op, "student_temp", student_temp)
    check_temperature(op, "teacher_temp", teacher_temp)
    check_pair_weights(op, pair_weights, student_logits.shape[0], teacher_logits.shape[0])
    if inplace_backward and student_logits.is_leaf and student_logits.requires_grad:
        raise ValueError(
            f"{op}: inplace_backward would overwrite student_logits, a leaf that requires a gradient; "
            "use it on logits computed by a layer, or set inplace_backward=False"
        )
    check_savable(op, (student_logits,), student_logits=student_logits, teacher_logits=teacher_logits, center=center)
    inplace_backward = inplace_backward and not torch.compiler.is_compiling()
    if inplace_backward and _overlaps(student_logits):
        raise ValueError(
            f"{op}: elements of student_logits share memory (shape {list(student_logits.shape)}, strides "
            f"{list(student_logits.stride())}), so inplace_backward would write several gradients to one place; "
            "give a copy (student_logits.contiguous()), or set inplace_backward=False"
        )
    return dispatch.run(
        op,
        (student_logits, teacher_logits, center),
        backend,
        student_logits,
        teacher_logits,
        center,
        student_temp=student_temp,
        teacher_temp=teacher_temp,
        pair_weights=pair_weights,
        inplace_backward=inplace_backward,
    )


def distill_head_loss(
    student: Tensor,
    teacher: Tensor,
    student_weight: Tensor,
    teacher_weight: Tensor,
    center: Tensor,
    *,
    student_temp: float,
    teacher_temp: float,
    pair_weights: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """`distill_loss` of the logits student @ student_weight^T and teacher @ teacher_weight^T, which never exist whole.

    On Triton the gradient of student_weight finds the logits again, in another order of summation: its probabilities
    are off by the factor exp(e / tau), e the rounding of a logit to float32 (about 1e-7 of it).

    Args:
        student: [S, N, d] bottleneck features. Gets a gradient.
        teacher: [T, N, d].
        student_weight: [K, d], the last linear layer (pass the normalised weight of a weight-normalised one). Gets a
            gradient, accumulated in float32.
        teacher_weight: [K, d].
        center: [K].
        student_temp, teacher_temp, pair_weights, backend: as in `distill_loss`.

    Returns:
        scalar, float32 (float64 if any input is float64).

    Raises:
        ValueError: a shape, dtype, device, temperature or weight that does not fit.
        RuntimeError: from the backward, where an input was changed in place since (update the teacher and the center
            after it), and from a second derivative.
    """
    op = "distill_head_loss"
    if not _alike(student, teacher, student_weight, teacher_weight, center) or not _head(
        student, student_weight, teacher_weight, center
    ):
        check_float(
            op,
            student=student,
            teacher=teacher,
            student_weight=student_weight,
            teacher_weight=teacher_weight,
            center=center,
        )
        check_shape(op, "student", student, (None, None, None), "[S, N, d]")
        _, samples, width = student.shape
        check_shape(op, "teacher", teacher, (None, samples, width), "[T, N, d]")
        check_shape(op, "student_weight", student_weight, (None, width), "[K, d]")
        prototypes = student_weight.shape[0]
        check_shape(op, "teacher_weight", teacher_weight, (prototypes, width), "[K, d]")
        check_shape(op, "center", center, (prototypes,), "[K]")
    check_temperature(op, "student_temp", student_temp)
    check_temperature(op, "teacher_temp", teacher_temp)
    check_pair_weights(op, pair_weights, student.shape[0], teacher.shape[0])
    check_savable(
        op,
        (student, student_weight),
        student=student,
        teacher=teacher,
        student_weight=student_weight,
        teacher_weight=teacher_weight,
        center=center,
    )
    return dispatch.run(
        op,
        (student, teacher, student_weight, teacher_weight, center),
        backend,
        student,
        teacher,
        student_weight,
        teacher_weight,
        center,
        student_temp=student_temp,
        teacher_temp=teacher_temp,
        pair_weights=pair_weights,
    )


def _alike(student: Tensor, teacher: Tensor, *others: Tensor) -> bool:
    """Whether all is well between tensors, told in little time: what is wrong the checks by name then say.

    student [S, N, ...] and teacher [T, N, ...] of any sizes from 1 up; dtypes and devices of all.
    """
    for tensor in (student, teacher, *others):
        if not isinstance(tensor, Tensor) or tensor.dtype not in FLOATS or tensor.device != student.device:
            return False
    return (
        student.dim() == teacher.dim() == 3
        and student.shape[1:] == teacher.shape[1:]
        and min(student.shape) >= 1
        and teacher.shape[0] >= 1
    )


def _head(student: Tensor, weight: Tensor, teacher_weight: Tensor, center: Tensor) -> bool:
    return (
        weight.dim() == 2
        and weight.shape == teacher_weight.shape
        and weight.shape[1] == student.shape[2]
        and center.shape == weight.shape[:1]
        and weight.shape[0] >= 1
    )


def _overlaps(tensor: Tensor) -> bool:
    """Whether elements share memory, or may: so it is for every layout that interleaves whole dimensions."""
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride <= reach:
            return True
        reach += stride * (size - 1)
    return False
