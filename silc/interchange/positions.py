"""Position tables for another number of positions, resized as the library resizes them that the weights come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from silc.interchange.source import Resize

Grid = tuple[int, int]

# Arguments of torch's interpolate, and the precision, that give each library's values:
# - timm.layers.resample_abs_pos_embed, which timm applies to pretrained weights of another size (open_clip leaves the
#   tables of timm's towers to it);
# - SiglipVisionEmbeddings.interpolate_pos_encoding of transformers;
# - resample_posemb in big_vision/models/vit.py: scipy.ndimage.zoom of order 1, which keeps the corners where they are.
_METHODS: Mapping[Resize, tuple[dict[str, Any], torch.dtype]] = {
    "timm": ({"mode": "bicubic", "antialias": True, "align_corners": False}, torch.float32),
    "hugging_face": ({"mode": "bicubic", "antialias": False, "align_corners": False}, torch.float32),
    "big_vision": ({"mode": "bilinear", "align_corners": True}, torch.float64),
}


def resize(table: Tensor, old: Grid, new: Grid, how: Resize) -> Tensor:
    """The image tower's position table for another grid of patches.

    Args:
        table: floating point [1, old[0] * old[1], D], rows of the grid one after another.
        old: (rows, columns) that the table is for.
        new: (rows, columns) that are wanted.
        how: the library whose values are to come out.

    Returns:
        [1, new[0] * new[1], D] of the table's dtype; the table itself where the grids are equal.

    Raises:
        ValueError: a table of another shape than `old` says, or a grid without rows or columns.
    """
    if table.ndim != 3 or table.shape[:2] != (1, old[0] * old[1]) or min(*old, *new) < 1:
        raise ValueError(f"a position table of shape {list(table.shape)} is not one for {old[0]} x {old[1]} patches")
    if old == new:
        return table
    arguments, precision = _METHODS[how]
    grid = table.to(precision).unflatten(1, old).permute(0, 3, 1, 2)
    return F.interpolate(grid, size=new, **arguments).permute(0, 2, 3, 1).flatten(1, 2).to(table.dtype)


def resize_text(table: Tensor, length: int) -> Tensor:
    """The text tower's position table for another context length: [L, D] -> [length, D], as open_clip's
    resize_text_pos_embed (linear). The table itself where the lengths are equal.

    Raises ValueError for a table of another shape, or a length below 1.
    """
    if table.ndim != 2 or length < 1:
        raise ValueError(f"a position table of shape {list(table.shape)} is not one for texts, or {length} is below 1")
    if len(table) == length:
        return table
    wide = F.interpolate(table.float().t()[None], size=length, mode="linear", align_corners=False)
    return wide[0].t().to(table.dtype).contiguous()
