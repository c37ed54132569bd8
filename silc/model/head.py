"""The projection head of self-distillation (DINO, arXiv 2104.14294) and the distillation loss that runs inside it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from silc.config import HeadConfig
from silc_kernels import distill_head_loss


@dataclass(frozen=True, kw_only=True)
class DistillInputs:
    """What the teacher gives the student's pass, and how the two are compared.

    Attributes:
        teacher: the teacher's normalised bottleneck features [T, B, d], no gradient; or, for a teacher that shares the
            student's encoder, a function that makes them of the student's detached image features [B, V, D].
        weight: the teacher's normalised prototypes [K, d].
        center: mean of the teacher's outputs [K].
        student_temp, teacher_temp: temperatures of the two softmaxes.
        pair_weights: [S, T] weight of each (student view, teacher view) pair; None: all equal.
        student_views: how many of the last large views join the small crops as students, after them.
        backend: of ``silc_kernels.distill_head_loss``.
    """

    teacher: Tensor | Callable[[Tensor], Tensor]
    weight: Tensor
    center: Tensor
    student_temp: float
    teacher_temp: float
    pair_weights: Tensor | None = None
    student_views: int = 0
    backend: str = "auto"


class Prototypes(nn.Module):
    """The last layer: K prototypes, weight-normalised without a gain, so each row has length 1."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, width))

    def forward(self) -> Tensor:
        """The normalised weight [K, d], differentiable."""
        return F.normalize(self.weight, dim=-1)


class PrototypeHead(nn.Module):
    """MLP with GELU to a bottleneck, L2 normalisation, then K weight-normalised prototypes.

    Logits are never written out: the loss takes bottleneck features and prototypes.

    Args:
        width: of the features that come in.
        config: sizes.
    """

    def __init__(self, width: int, config: HeadConfig) -> None:
        super().__init__()
        widths = [width, *[config.hidden] * (config.layers - 1), config.bottleneck]
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), nn.GELU()]
        self.mlp = nn.Sequential(*layers[:-1])
        self.last_layer = Prototypes(config.prototypes, config.bottleneck)

    def bottleneck(self, features: Tensor) -> Tensor:
        """Normalised bottleneck features: [..., D] -> [..., d]."""
        return F.normalize(self.mlp(features), dim=-1)

    def weight(self) -> Tensor:
        """The normalised prototypes [K, d], differentiable."""
        return self.last_layer()

    def forward(self, features: Tensor, teacher: Tensor, distill: DistillInputs) -> Tensor:
        """The distillation loss of student features [S, B, D] against teacher features [T, B, d]: a scalar.

        Mean over samples and weighted mean over pairs of the cross-entropy between the centered, sharpened teacher and
        the student (SILC, arXiv 2310.13355, section 3.2).
        """
        return distill_head_loss(
            self.bottleneck(features),
            teacher,
            self.weight(),
            distill.weight,
            distill.center,
            student_temp=distill.student_temp,
            teacher_temp=distill.teacher_temp,
            pair_weights=distill.pair_weights,
            backend=distill.backend,
        )
