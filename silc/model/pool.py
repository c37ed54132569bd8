"""Attention pooling (SigLIP's MAP head) over packed crops of several resolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from silc.config.fields import Gelu
from silc.model.layers import Mlp, layer_norm
from silc_kernels import PackedLayout


class LatentKeyValue(nn.Module):
    """Keys and values of the pool, attended by one query without writing either out.

    With a single query q, a head's scores are q . (K x + b) = (K^T q) . x + const, and the constant leaves the softmax:
    the query is taken to the tokens' side instead of every token to the keys'. In the same way the values' projection
    is applied after the average: sum_t a_t (V x_t + b) = V (sum_t a_t x_t) + b. Two [D, heads] products for every token
    take the place of one of [D, 2 D]. The keys' bias has no influence on the result: its gradient is exactly zero.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.weight = nn.Parameter(torch.empty(2 * width, width))
        self.bias = nn.Parameter(torch.empty(2 * width))

    def forward(self, query: Tensor, packed: Tensor, layout: PackedLayout) -> Tensor:
        """query [1, 1, D], packed [T, D] -> [crops of all groups, D]."""
        heads, width = self.heads, packed.shape[-1]
        key, value = self.weight.view(2, heads, width // heads, width).unbind(0)
        probe = torch.bmm(query.view(heads, 1, -1), key).squeeze(1) * (width // heads) ** -0.5  # [heads, D]
        averages = []
        for score, x in zip(layout.views(packed @ probe.t()), layout.views(packed), strict=True):
            attention = score.softmax(dim=1)  # [M_i, tokens_i, heads]
            averages.append(torch.bmm(attention.transpose(1, 2), x))
        average = averages[0] if len(averages) == 1 else torch.cat(averages)  # [crops, heads, D]
        pooled = torch.bmm(average.transpose(0, 1), value.transpose(1, 2))  # [heads, crops, D / heads]
        return pooled.transpose(0, 1).flatten(1) + self.bias[width:]


class AttentionPool(nn.Module):
    """One learned query attends to a crop's tokens; names and arithmetic of timm's AttentionPoolLatent."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, gelu: Gelu = "exact") -> None:
        super().__init__()
        self.latent = nn.Parameter(torch.empty(1, 1, width))
        self.q = nn.Linear(width, width)
        self.kv = LatentKeyValue(width, heads)
        self.proj = nn.Linear(width, width)
        self.norm = layer_norm(width)
        self.mlp = Mlp(width, mlp_ratio, gelu)

    def forward(self, packed: Tensor, layout: PackedLayout) -> Tensor:
        """packed [T, D] -> one vector a crop, [crops of all groups, D]."""
        x = self.proj(self.kv(self.q(self.latent), packed, layout))
        return x + self.mlp(self.norm(x))
