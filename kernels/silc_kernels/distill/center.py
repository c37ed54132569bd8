"""The center of the teacher's logits: an exponential moving average over batches and ranks (DINO, eq. 4)."""

import torch
import torch.distributed as dist
from torch import Tensor

from ..common.checks import check_float, check_shape
from ..common.collectives import Ranks
from ..common.dispatch import without_autocast


@torch.no_grad()
def center_update(
    center: Tensor,
    mean: Tensor,
    teacher_weight: Tensor | None = None,
    *,
    momentum: float,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """c <- m c + (1 - m) mean over the batch and the ranks of the teacher's logits.

    The logits' mean is linear in the features, so with `teacher_weight` only the mean feature travels between ranks:
    d numbers instead of K.

    Args:
        center: [K]. Not changed in place.
        mean: [K], this rank's mean logits; or [d], its mean bottleneck feature, when `teacher_weight` is given.
        teacher_weight: [K, d], the last linear layer of the teacher.
        momentum: m, in [0, 1].
        group: process group; None: the default one if initialised, else this process alone. The ranks are averaged
            with equal weights: they must hold batches of one size.

    Returns:
        the new center, [K], float32 (float64 for a float64 center).
    """
    op = "center_update"
    if not 0 <= momentum <= 1:
        raise ValueError(f"{op}: momentum is {momentum}; it must lie in [0, 1] (DINO: 0.9)")
    check_shape(op, "center", center, (None,), "[K]")
    if teacher_weight is None:
        check_float(op, center=center, mean=mean)
        check_shape(op, "mean", mean, tuple(center.shape), "[K]; with a mean feature [d] give teacher_weight")
    else:
        check_float(op, center=center, mean=mean, teacher_weight=teacher_weight)
        check_shape(op, "mean", mean, (None,), "[d]")
        check_shape(op, "teacher_weight", teacher_weight, (center.shape[0], mean.shape[0]), "[K, d]")
    ranks = Ranks.of(op, group)
    dtype = torch.promote_types(center.dtype, torch.float32)
    mean = mean.to(dtype, copy=ranks.size > 1)
    if ranks.size > 1:
        mean = ranks.all_reduce_(mean).div_(ranks.size)
    if teacher_weight is not None:
        with without_autocast(center.device):
            mean = teacher_weight.to(dtype) @ mean
    return torch.lerp(mean, center.to(dtype), momentum)
