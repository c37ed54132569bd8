"""Multi-crop patch embedding as a chain of the usual steps, in the weight's dtype.

To read, and to test against; the op computes the same in less time and memory.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def patch_embed(
    crops: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor,
    positions: Sequence[Tensor],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    prefix: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Normalize bytes, convolve, flatten, add positions, put the prefix before each crop's tokens, concatenate."""
    average, deviation = (torch.tensor(v, dtype=weight.dtype, device=weight.device).view(3, 1, 1) for v in (mean, std))
    packed = []
    for crop, table in zip(crops, positions, strict=True):
        pixels = crop.to(weight.dtype)
        if crop.dtype == torch.uint8:
            pixels = (pixels / 255 - average) / deviation
        tokens = functional.conv2d(pixels, weight, bias, stride=weight.shape[-1]).flatten(2).transpose(1, 2) + table
        if prefix is not None:
            tokens = torch.cat([prefix.expand(len(crop), -1, -1), tokens], dim=1)
        packed.append(tokens.flatten(0, 1))
    return torch.cat(packed).to(out_dtype or weight.dtype)
