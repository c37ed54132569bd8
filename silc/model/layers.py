"""The pieces both image modules share, in SigLIP's arithmetic: LayerNorm with eps 1e-6 and exact GELU."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-6


def layer_norm(width: int) -> nn.LayerNorm:
    """LayerNorm over the last dimension, eps as in SigLIP."""
    return nn.LayerNorm(width, eps=NORM_EPS)


class Mlp(nn.Module):
    """fc1, exact GELU, fc2: [..., D] -> [..., D]."""

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        hidden = int(width * ratio)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))
