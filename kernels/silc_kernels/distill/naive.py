"""The distillation losses and their center as they are written in the papers: whole tensors, autograd, any dtype.

To read, and to test against; the ops compute the same in less time and memory.
"""

from typing import Any

import torch
from torch import Tensor


def distill_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    center: Tensor,
    *,
    student_temp: float,
    teacher_temp: float,
    pair_weights: Tensor | None = None,
) -> Tensor:
    """sum_n sum_st w_st H(P_tn, P_sn) / (N sum_st w_st). Logits [S, N, K] and [T, N, K], center [K], weights [S, T]."""
    targets = torch.softmax((teacher_logits - center) / teacher_temp, dim=-1)
    log_probabilities = torch.log_softmax(student_logits / student_temp, dim=-1)
    entropies = -torch.einsum("tnk,snk->stn", targets, log_probabilities)
    weights = torch.ones_like(entropies[..., 0]) if pair_weights is None else pair_weights.to(entropies)
    return (weights * entropies.mean(-1)).sum() / weights.sum()


def distill_head_loss(
    student: Tensor,
    teacher: Tensor,
    student_weight: Tensor,
    teacher_weight: Tensor,
    center: Tensor,
    **options: Any,
) -> Tensor:
    """`distill_loss` after the last linear layers. Features [S, N, d] and [T, N, d], weights [K, d]; same options."""
    return distill_loss(student @ student_weight.t(), teacher @ teacher_weight.t(), center, **options)


def center_update(center: Tensor, teacher_logits: Tensor, *, momentum: float) -> Tensor:
    """m c + (1 - m) mean z_t, on one process. Logits [..., K] of the whole batch, center [K]."""
    return momentum * center + (1 - momentum) * teacher_logits.flatten(0, -2).mean(0)
