"""The SILC objective over the views of a batch (arXiv 2310.13355, section 3): what is aligned with what.

    L = L_contrastive + w * mean over pairs (student crop, teacher global crop) of -P_t . log P_s

The tensors come from :mod:`silc.model`, the arithmetic from `silc_kernels`; this module only says which view plays
which part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import silc_kernels
from silc.config import Config
from silc.distributed import all_reduce_mean_


@dataclass(frozen=True)
class ViewPlan:
    """The parts that a sample's views play. `large` views are [original?, global 1, global 2, ...]."""

    n_large: int
    n_original: int
    n_global: int
    n_local: int
    student_large: int  # the student encodes the first `student_large` large views
    aligned: tuple[int, ...]  # of those, the ones aligned with the text
    joined: int  # of those, how many (the last ones) are distilled too, beside the local crops
    pair_weights: Tensor | None  # [n_local + joined, n_global]; None: every pair counts the same

    @property
    def teacher_views(self) -> slice:
        """The large views the teacher sees: the global crops."""
        return slice(self.n_original, self.n_large)


def plan_views(config: Config) -> ViewPlan:
    """Derive the parts from `objective.contrastive_views`, `objective.distill` and `objective.global_to_global`."""
    views, objective = config.views, config.objective
    n_original, n_global = config.n_original, views.n_global
    n_large = n_original + n_global
    cross = objective.distill and objective.global_to_global
    only_original = objective.contrastive_views == "original"
    student_large = n_original if only_original and not cross else n_large
    aligned = tuple(range(n_original)) if only_original else tuple(range(n_large))
    joined = n_global if cross else 0
    weights = None
    if cross:  # a global crop is not compared with itself
        weights = torch.cat([torch.ones(views.n_local, n_global), 1 - torch.eye(n_global)])
    return ViewPlan(n_large, n_original, n_global, views.n_local, student_large, aligned, joined, weights)


def contrastive(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    *,
    plan: ViewPlan,
    config: Config,
    dtype: torch.dtype,
) -> Tensor:
    """Mean over the aligned views of a B x B contrastive loss each, over all ranks.

    image: [n, student_large, D] and text: [n, D], this rank's features, not normalised. scale: [1], the multiplier
    itself; bias: [1] for the sigmoid loss. dtype: that of the similarity products. Averaging the gradients over ranks
    gives the whole batch's.
    """
    objective = config.objective
    views = F.normalize(image[:, list(plan.aligned)].transpose(0, 1).float(), dim=-1).to(dtype)
    return silc_kernels.contrastive_loss(
        views,
        F.normalize(text.float(), dim=-1).to(dtype),
        scale,
        bias,
        kind=objective.contrastive,
        plan=objective.contrastive_plan,
        chunk=objective.contrastive_chunk,
        backend=config.kernels.contrastive,
    )


@torch.no_grad()
def teacher_statistics(
    bottleneck: Tensor, weight: Tensor, center: Tensor, temp: float, rows: int = 256
) -> dict[str, Tensor]:
    """Collapse monitors over the teacher outputs of a whole batch: entropy (nats), KL to uniform, feature std.

    bottleneck: [T, n, d] normalised features of this rank's share of the batch, all of its micro-batches; weight:
    [K, d]; center: [K]. A rank with more than `rows` outputs takes that many of them, evenly spaced; the result is over
    those of all ranks (collective, one small reduction).

    Entropy 0 is a one-hot teacher, log K a uniform one; both are collapse. feature_std is the mean standard deviation
    over samples of the normalised features, 1/sqrt(d) when they are spread.
    """
    flat = bottleneck.flatten(0, 1)
    if len(flat) > rows:
        flat = flat[torch.arange(rows, device=flat.device) * len(flat) // rows]
    flat = flat.float()
    logp = F.log_softmax((flat @ weight.float().T - center) / temp, dim=-1)
    entropy = -(logp.exp() * logp).sum(-1).mean()
    wide = flat.double()  # so that the difference of two nearly equal moments is exact enough for collapsed features
    moments = torch.cat([entropy.double().view(1), wide.mean(0), wide.square().mean(0)])
    entropy, means, squares = all_reduce_mean_(moments).split([1, flat.shape[1], flat.shape[1]])
    return {
        "teacher_entropy": entropy[0],
        "teacher_kl_uniform": math.log(weight.shape[0]) - entropy[0],
        "feature_std": (squares - means.square()).clamp(min=0).sqrt().mean(),
    }
