"""Small images for the page: thumbnails, classes in color over them, features as colors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from silc.data.splits import IGNORE
from silc.evaluate.report.palette import Color, blended

SIDE = 160  # pixels of an image shown


def thumbnail(image: Tensor, side: int = SIDE) -> np.ndarray:
    """uint8 [H, W, 3] -> the longer side at `side` pixels."""
    scale = side / max(image.shape[:2])
    size = [max(1, round(length * scale)) for length in image.shape[:2]]
    small = F.interpolate(image.permute(2, 0, 1)[None].float(), size, mode="bilinear", antialias=True)
    return small[0].round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()


def overlay(image: Tensor, classes: Tensor, colors: Mapping[int, Color], side: int = SIDE) -> np.ndarray:
    """Classes [H, W] in their colors over a pale gray image; pixels of no class are the gray image alone."""
    base = thumbnail(image, side).astype(np.float32)
    base = 255 - (255 - base.mean(-1, keepdims=True).repeat(3, -1)) * 0.5
    size = list(base.shape[:2])
    small = F.interpolate(classes[None, None].double(), size, mode="nearest-exact")[0, 0].long().numpy()
    out = base.copy()
    for number in np.unique(small[small != IGNORE]):
        where = small == number
        out[where] = blended(np.array(colors[int(number)]), base[where])
    return out.round().astype(np.uint8)


def principal_colors(maps: Sequence[Tensor]) -> list[np.ndarray]:
    """Feature maps [h, w, D] of one model -> uint8 [h, w, 3]: the components of all maps together, 2 to 98 % of each
    component's range spread over a color.
    """
    rows = torch.cat([one.flatten(0, 1) for one in maps]).double()
    centered = rows - rows.mean(0)
    # The sign of a component is arbitrary: make its largest entry positive, so that a report can be made again.
    _, _, directions = torch.linalg.svd(centered, full_matrices=False)
    directions = directions[:3] * directions[:3].gather(1, directions[:3].abs().argmax(1, keepdim=True)).sign()
    scores = centered @ directions.T
    low, high = torch.quantile(scores[:100_000], 0.02, dim=0), torch.quantile(scores[:100_000], 0.98, dim=0)
    colors = ((scores - low) / (high - low).clamp(min=1e-12)).clamp(0, 1).mul(255).round().to(torch.uint8)
    colors = F.pad(colors, (0, 3 - colors.shape[1]))
    parts = colors.split([one.shape[0] * one.shape[1] for one in maps])
    return [part.view(*one.shape[:2], 3).numpy() for part, one in zip(parts, maps, strict=True)]
