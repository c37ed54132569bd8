"""A light decoder over patch-text cosines for open-vocabulary segmentation, in the spirit of CAT-Seg (2303.11797).

The cosines of every patch with every class form a volume [C, h, w]. Each class's map is embedded and refined by layers
that all classes share: convolutions over the image, guided by its features, and attention among the classes at each
patch, guided by their names. No parameter belongs to a class, so that any class can be segmented by its name.

What a layer computes of the guide or of the names alone, all classes or patches share: it is computed once and added,
where the formula concatenates. Maps are channels_last, in which a CPU convolves them, and attends, without copies.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FIRST_SCALE = 20.0  # from cosines to logits, before training


class SpatialMixing(nn.Module):
    """Mixes neighbouring patches within each class, guided by the image's features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, width)
        self.across = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.expand = nn.Conv2d(2 * width, 2 * width, 1)
        self.reduce = nn.Conv2d(2 * width, width, 1)

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """x [B, C, d, h, w], guide [B, d, h, w]."""
        of_maps, of_guide = self.expand.weight.chunk(2, dim=1)
        maps = F.conv2d(self.across(self.norm(x.flatten(0, 1))), of_maps).unflatten(0, x.shape[:2])
        beside = F.conv2d(guide, of_guide, self.expand.bias)
        mixed = self.reduce(F.gelu(maps + beside[:, None]).flatten(0, 1))
        return x + mixed.unflatten(0, x.shape[:2])


class ClassMixing(nn.Module):
    """Mixes the classes at each patch: attention whose queries and keys see the names, and whose values do not."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.match = nn.Linear(2 * width, 2 * width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, names: Tensor) -> Tensor:
        """x [B, C, d, h, w], names [C, d]."""
        tokens = self.norm(x.permute(0, 3, 4, 1, 2))  # [B, h, w, C, d]
        of_tokens, of_names = self.match.weight.chunk(2, dim=1)
        matched = F.linear(tokens, of_tokens) + F.linear(names, of_names, self.match.bias)
        parts: list[Tensor] = [*matched.chunk(2, dim=-1), self.value(tokens)]
        query, key, value = (part.flatten(0, 2)[:, None] for part in parts)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return x + self.out(mixed.view_as(tokens)).permute(0, 3, 4, 1, 2)


class CostDecoder(nn.Module):
    """Cosines to logits at twice the patches' resolution. Before training the logits are the scaled cosines.

    Args:
        features: D, width of the model's features.
        width: d, width of the embedded cosines.
        depth: number of pairs of blocks, spatial and among classes.
    """

    def __init__(self, features: int, width: int, depth: int = 2) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, width, 3, padding=1)
        self.guide = nn.Linear(features, width)
        self.names = nn.Linear(features, width)
        self.spatial = nn.ModuleList(SpatialMixing(width) for _ in range(depth))
        self.classes = nn.ModuleList(ClassMixing(width) for _ in range(depth))
        self.smooth = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.out = nn.Conv2d(width, 1, 1)
        self.scale = nn.Parameter(torch.tensor(FIRST_SCALE))
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, patches: Tensor, classes: Tensor) -> Tensor:
        """Unit-length patch features [B, h, w, D] and class embeddings [C, D] -> logits [B, C, 2 h, 2 w]."""
        batch, rows, columns, _ = patches.shape
        cost = (patches @ classes.T).permute(0, 3, 1, 2)
        guide, names = self.guide(patches).permute(0, 3, 1, 2), self.names(classes)
        maps = self.embed(cost.reshape(-1, 1, rows, columns)).contiguous(memory_format=torch.channels_last)
        x = maps.unflatten(0, (batch, -1))
        for spatial, among in zip(self.spatial, self.classes, strict=True):
            x = among(spatial(x, guide), names)
        fine = _double(x.flatten(0, 1))
        delta = self.out(F.gelu(self.smooth(fine))).view(batch, len(classes), 2 * rows, 2 * columns)
        return self.scale * _double(cost) + delta


def _double(maps: Tensor) -> Tensor:
    return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)
