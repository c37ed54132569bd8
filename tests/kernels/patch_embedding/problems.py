"""Inputs of patch_embed for the tests of every implementation."""

import torch
from torch import Tensor

from tests.kernels.oracles import normal

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)}


def pixels(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def problem(sizes, patch: int, width: int, prefix: int = 0, dtype: torch.dtype = torch.float64):
    """sizes: (M, H, W) a resolution. -> crops, weight, bias, positions, prefix or None."""
    crops = [pixels(m, 3, h, w, seed=i) for i, (m, h, w) in enumerate(sizes)]
    weight = (normal(width, 3, patch, patch, seed=1) / patch).to(dtype).requires_grad_()
    bias = normal(width, seed=2, dtype=dtype).requires_grad_()
    tables = [
        normal((h // patch) * (w // patch), width, seed=3 + i, dtype=dtype).requires_grad_()
        for i, (_, h, w) in enumerate(sizes)
    ]
    before = normal(prefix, width, seed=9, dtype=dtype).requires_grad_() if prefix else None
    return crops, weight, bias, tables, before


def trained(weight: Tensor, bias: Tensor, tables: list[Tensor], prefix: Tensor | None) -> list[Tensor]:
    return [weight, bias, *tables] + ([] if prefix is None else [prefix])


def identity(patch: int, dtype: torch.dtype) -> Tensor:
    """A weight that returns the pixels of a patch as they are."""
    inputs = 3 * patch * patch
    return torch.eye(inputs, dtype=dtype).view(inputs, 3, patch, patch)


def cut(crop: Tensor, patch: int) -> Tensor:
    """[M, 3, H, W] -> [M tokens, 3 p p], one slice at a time."""
    crops, _, height, width = crop.shape
    patches = [
        crop[m, :, y : y + patch, x : x + patch].flatten()
        for m in range(crops)
        for y in range(0, height, patch)
        for x in range(0, width, patch)
    ]
    return torch.stack(patches)
