"""The text tower: a bidirectional transformer pooled at its last token (open_clip's TextTransformer as SigLIP sets it).

Padding is attended to like any token, as in open_clip. Only the last position leaves the tower, so the last block
computes queries, its output projection and its MLP for that position alone: the same function for a sixth of the
block's work.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from silc.config import TextConfig
from silc.config.fields import Gelu
from silc.model.attention import sdpa_heads
from silc.model.layers import GeluLinear, layer_norm


class SelfAttention(nn.Module):
    """Multi-head self-attention with nn.MultiheadAttention's parameter names."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, last_only: bool) -> Tensor:
        """[B, L, D] -> [B, L, D], or [B, 1, D] for the last position alone."""
        width = x.shape[-1]
        if last_only:
            q = F.linear(x[:, -1:], self.in_proj_weight[:width], self.in_proj_bias[:width])
            k, v = F.linear(x, self.in_proj_weight[width:], self.in_proj_bias[width:]).chunk(2, dim=-1)
        else:
            q, k, v = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        return self.out_proj(sdpa_heads(q, k, v).transpose(1, 2).flatten(2))


class ResidualBlock(nn.Module):
    """Pre-norm transformer block under open_clip's names."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, gelu: Gelu) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.ln_1 = layer_norm(width)
        self.attn = SelfAttention(width, heads)
        self.ln_2 = layer_norm(width)
        self.mlp = nn.Sequential(OrderedDict(c_fc=nn.Linear(width, hidden), c_proj=GeluLinear(hidden, width, gelu)))

    def forward(self, x: Tensor, last_only: bool) -> Tensor:
        """[B, L, D] -> [B, L, D], or [B, 1, D] for the last position alone."""
        kept = x[:, -1:] if last_only else x
        x = kept + self.attn(self.ln_1(x), last_only)
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """The blocks; what comes out is the last position."""

    def __init__(self, config: TextConfig, checkpoint_activations: bool) -> None:
        super().__init__()
        self.checkpoint_activations = checkpoint_activations
        self.resblocks = nn.ModuleList(
            ResidualBlock(config.width, config.heads, config.mlp_ratio, config.gelu) for _ in range(config.depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, D]."""
        last = len(self.resblocks) - 1
        for index, block in enumerate(self.resblocks):
            if self.checkpoint_activations and x.requires_grad:
                x = checkpoint(block, x, index == last, use_reentrant=False)
            else:
                x = block(x, index == last)
        return x[:, 0]


class TextTower(nn.Module):
    """Token ids to one vector a caption.

    Args:
        config: sizes.
        embed_width: width of the shared embedding (the image tower's).
        checkpoint_activations: recompute each block in the backward pass.
    """

    def __init__(self, config: TextConfig, embed_width: int, *, checkpoint_activations: bool = False) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.positional_embedding = nn.Parameter(torch.empty(config.context_length, config.width))
        self.transformer = Transformer(config, checkpoint_activations)
        self.ln_final = layer_norm(config.width)
        self.text_projection = nn.Linear(config.width, embed_width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Encode token ids, int [B, L] with L at most the context length -> [B, D], not normalised.

        Raises ValueError for a longer L.
        """
        length, limit = tokens.shape[1], self.positional_embedding.shape[0]
        if length > limit:
            raise ValueError(f"{length} tokens exceed the context length {limit}; cut them when tokenizing")
        x = self.token_embedding(tokens) + self.positional_embedding[:length]
        return self.text_projection(self.ln_final(self.transformer(x)))
