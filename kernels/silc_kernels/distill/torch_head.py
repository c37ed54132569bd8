"""distill_head_loss in plain torch: the logits of a few samples at a time, gradients found with the loss.

The whole rows of a few samples fit in a small buffer, so the student's product is done once (not once for the
normaliser and again for the gradient), and the cross term needs no pass over it:

    y_t  = softmax((W_T h_t - c) / tau_t) W
    loss = sum_s [ W_s LSE(W x_s / tau_s) - (1 / tau_s) sum_t w_st x_s . y_t ],   W_s = sum_t w_st
    dx_s = (1 / tau_s) [ W_s softmax_s W - sum_t w_st y_t ]
    dW   = (1 / tau_s) [ sum_s W_s softmax_s^T x_s - sum_t softmax_t^T (sum_s w_st x_s) ]
"""

import torch
from torch import Tensor

from ..common.first_order import once
from .pairs import PairWeights, mix_teachers_

# Logits (student and teacher) held at a time: 64 MiB of float32. Larger products run nearer to the machine's peak,
# smaller ones leave the cache less often; this is the measured best of both on a CPU.
CHUNK_ELEMENTS = 1 << 24


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
) -> Tensor:
    """Plain-torch `silc_kernels.distill_head_loss`; arguments are not checked."""
    wanted = torch.is_grad_enabled() and (student.requires_grad or student_weight.requires_grad)
    return _DistillHeadLoss.apply(
        student,
        teacher.detach(),
        student_weight,
        teacher_weight.detach(),
        center.detach(),
        pair_weights,
        (student_temp, teacher_temp),
        wanted,
    )


class _DistillHeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, student, teacher, weight, teacher_weight, center, pair_weights, temps, wanted):
        dtype, inputs = torch.float32, (student, teacher, weight, teacher_weight, center)
        for tensor in inputs:
            dtype = torch.promote_types(dtype, tensor.dtype)
        pairs = PairWeights.of(pair_weights, student, teacher, center.to(dtype))
        weight, teacher_weight = weight.to(dtype), teacher_weight.to(dtype)
        shift = center.to(dtype) / -temps[1]
        samples, prototypes = student.shape[1], weight.shape[0]
        chunks = -(-samples * (student.shape[0] + teacher.shape[0]) * prototypes // CHUNK_ELEMENTS)
        step = -(-samples // min(chunks, samples))
        d_student = torch.empty(student.shape, dtype=dtype, device=student.device) if wanted else None
        d_weight = torch.empty_like(weight) if wanted else None
        total = weight.new_zeros(())
        buffer = weight.new_empty((student.shape[0] + teacher.shape[0]) * step, prototypes)
        for start in range(0, samples, step):
            rows = slice(start, start + step)
            total = total + _chunk(  # not in place, see torch_logits.py
                student[:, rows].to(dtype) / temps[0],
                teacher[:, rows].to(dtype) / temps[1],
                weight,
                teacher_weight,
                shift,
                pairs,
                buffer,
                d_student[:, rows] if wanted else None,
                d_weight,
                first=start == 0,
            )
        if wanted:
            d_student /= temps[0]
            # The inputs only for their version counters: the kernels read them in the backward, and where they refuse
            # one that was changed in place, so must the code that is tried first on a CPU.
            ctx.save_for_backward(d_student, d_weight, *inputs)
        return total

    @staticmethod
    def backward(ctx, grad):
        d_student, d_weight, student, _, weight, *_ = ctx.saved_tensors
        with torch.no_grad():
            d_student, d_weight = (d_student * grad).to(student.dtype), (d_weight * grad).to(weight.dtype)
        d_student, d_weight = (once("distill_head_loss", d, student, weight, grad) for d in (d_student, d_weight))
        return d_student, None, d_weight, None, None, None, None, None


def _chunk(
    student: Tensor,
    teacher: Tensor,
    weight: Tensor,
    teacher_weight: Tensor,
    shift: Tensor,
    pairs: PairWeights,
    buffer: Tensor,
    d_student: Tensor | None,
    d_weight: Tensor | None,
    *,
    first: bool,
) -> Tensor:
    """The loss of n samples, and their gradients if the places for them are given.

    student [S, n, d] and teacher [T, n, d] are divided by their temperatures; shift [K] is -center / tau_t. buffer has
    room for (S + T) n rows of K. d_student [S, n, d] is written, without 1 / tau_s; d_weight [K, d] is added to, or
    written by the first chunk.
    """
    students, samples, width = student.shape
    own = students * samples
    logits = buffer[: own + teacher.shape[0] * samples]
    flat = student.reshape(own, width)
    torch.mm(flat, weight.t(), out=logits[:own])
    torch.addmm(shift, teacher.reshape(-1, width), teacher_weight.t(), out=logits[own:])

    peak = logits[:own].amax(-1)
    torch.softmax(logits, -1, out=logits)
    # p at the peak is exp(peak - LSE), at least 1 / K: its logarithm gives LSE without more exponentials.
    lse = peak.sub_(logits[:own].amax(-1).log_()).view(students, samples)

    targets = mix_teachers_(logits[own:].view(-1, samples, logits.shape[1]), pairs)
    probabilities = logits[: own + targets.shape[0] * samples]
    mixed = probabilities if d_student is not None else probabilities[own:]
    attended = (mixed @ weight).view(-1, samples, width)
    if pairs.shared:
        pull = attended[-1:]
    else:
        pull = torch.einsum("st,tnd->snd", pairs.matrix, attended[-teacher.shape[0] :])
    loss = (pairs.per_student @ lse).sum() - (student * pull).sum()
    if d_student is not None and d_weight is not None:
        mass = pairs.per_student[:, None, None]
        torch.sub(attended[:students] * mass, pull, out=d_student)
        if pairs.shared:
            against = student.sum(0, keepdim=True)
        else:
            against = torch.einsum("st,snd->tnd", pairs.matrix, student)
        values = torch.cat([student * mass, -against]).view(-1, width)
        d_weight.addmm_(probabilities.t(), values, beta=0 if first else 1)
    return loss
