"""Scale and bias of the contrastive logits."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from silc.config import ObjectiveConfig


class LogitScale(nn.Module):
    """The learned multiplier (kept as its logarithm) and, for the sigmoid loss, the bias: fp32 tensors of shape [1].

    The multiplier that is used never exceeds the limit. The gradient passes the limit, so that a parameter beyond it
    can come back, and whatever its sign, because a rank's share may point the other way than the mean over ranks does.
    :meth:`limit_` after each optimiser step keeps the parameter itself from running away upwards.

    Args:
        kind: softmax or sigmoid.
        init_scale: first multiplier; None: 1 / 0.07 for softmax (CLIP), 10 for sigmoid (SigLIP).
        init_bias: first bias (sigmoid only).
        max_scale: limit of the multiplier.
    """

    def __init__(
        self, kind: str, *, init_scale: float | None = None, init_bias: float = -10.0, max_scale: float = 100.0
    ) -> None:
        super().__init__()
        if kind not in ("softmax", "sigmoid"):
            raise ValueError(f"contrastive kind {kind!r} is neither softmax nor sigmoid")
        if init_scale is None:
            init_scale = 1 / 0.07 if kind == "softmax" else 10.0
        self.max_scale = max_scale
        self.logit_scale = nn.Parameter(torch.full([1], math.log(init_scale)))
        self.logit_bias = nn.Parameter(torch.full([1], init_bias)) if kind == "sigmoid" else None

    @classmethod
    def of(cls, objective: ObjectiveConfig) -> LogitScale:
        """Scale and bias of a run, with their first values."""
        return cls(
            objective.contrastive,
            init_scale=objective.init_scale,
            init_bias=objective.init_bias,
            max_scale=objective.max_scale,
        )

    def effective(self) -> tuple[Tensor, Tensor | None]:
        """The multiplier [1], at most `max_scale`, and the bias [1] (None for softmax)."""
        multiplier = self.logit_scale.exp()
        # Divided by its own value it is 1, with the gradient of its logarithm: the limited value exactly, not rounded.
        one = multiplier / multiplier.detach()
        return multiplier.detach().clamp(max=self.max_scale) * one, self.logit_bias

    @torch.no_grad()
    def limit_(self) -> None:
        """Bring the parameter back to the limit; call it after each optimiser step."""
        self.logit_scale.clamp_(max=math.log(self.max_scale))
