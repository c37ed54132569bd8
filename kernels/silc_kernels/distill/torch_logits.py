"""distill_loss in plain torch: a few samples at a time, nothing kept but the inputs."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..common.dispatch import without_autocast
from ..common.first_order import once
from .pairs import PairWeights, mix_teachers_

# Logits (student and teacher) worked on at a time: 16 MiB of float32, so that a chunk stays in the last-level cache.
CHUNK_ELEMENTS = 1 << 22


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
    """Plain-torch `silc_kernels.distill_loss`; arguments are not checked."""
    return _DistillLoss.apply(
        student_logits,
        teacher_logits.detach(),
        center.detach(),
        pair_weights,
        student_temp,
        teacher_temp,
        inplace_backward,
    )


class _DistillLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, student, teacher, center, weights, student_temp, teacher_temp, inplace):
        dtype = torch.promote_types(student.dtype, torch.float32)
        center = center.to(dtype)
        total = center.new_zeros(())
        pairs = PairWeights.of(weights, student, teacher, center)
        for rows in _samples(student, teacher):
            logits = student[:, rows].to(dtype) / student_temp
            targets = _targets(teacher[:, rows], center, teacher_temp, pairs)
            cross = _cross(logits, targets, pairs)
            peak = logits.amax(-1, keepdim=True)
            lse = logits.sub_(peak).exp_().sum(-1).log_().add_(peak.squeeze(-1))
            # Not in place: compiled by torch 2.11, the gradient of a total that was changed in place is 0.
            total = total + (pairs.per_student @ lse).sum() - cross
        ctx.save_for_backward(student, teacher, center)
        ctx.pairs, ctx.temps, ctx.inplace = pairs, (student_temp, teacher_temp), inplace
        return total

    @staticmethod
    def backward(ctx, grad):
        student, teacher, center = ctx.saved_tensors
        with torch.no_grad():
            out = _gradient(ctx, grad, student, teacher, center)
        return once("distill_loss", out, student, grad), None, None, None, None, None, None


def _gradient(ctx: Any, grad: Tensor, student: Tensor, teacher: Tensor, center: Tensor) -> Tensor:
    student_temp, teacher_temp = ctx.temps
    # Written through a tensor that shares the version counter: a second backward over the overwritten logits is
    # then refused by autograd instead of being silently wrong.
    out = student.detach() if ctx.inplace else torch.empty_like(student)
    scale = grad / student_temp
    mass = (ctx.pairs.per_student * scale)[:, None, None]
    for rows in _samples(student, teacher):
        targets = _targets(teacher[:, rows], center, teacher_temp, ctx.pairs)
        if not ctx.pairs.shared:
            with without_autocast(student.device):
                targets = torch.einsum("st,tnk->snk", ctx.pairs.matrix, targets)
        wanted = torch.softmax(student[:, rows].to(center.dtype) / student_temp, -1).mul_(mass)
        out[:, rows] = wanted.sub_(targets.mul_(scale))
    return out


def _samples(student: Tensor, teacher: Tensor) -> Iterator[slice]:
    samples = student.shape[1]
    each = (student.shape[0] + teacher.shape[0]) * student.shape[2]
    step = max(1, CHUNK_ELEMENTS // each)
    return (slice(start, start + step) for start in range(0, samples, step))


def _targets(teacher: Tensor, center: Tensor, temp: float, pairs: PairWeights) -> Tensor:
    return mix_teachers_(torch.softmax((teacher.to(center.dtype) - center).div_(temp), -1), pairs)


def _cross(logits: Tensor, targets: Tensor, pairs: PairWeights) -> Tensor:
    """sum over pairs and samples of w_st p_t . z_s / tau_s."""
    if pairs.shared:
        return torch.einsum("snk,nk->", logits, targets[0])
    products = torch.einsum("snk,tnk->nst", logits, targets)
    return (products.sum(0) * pairs.matrix).sum()
