"""The image tower: a ViT that takes crops of several resolutions in one packed pass.

All crops of all resolutions form one sequence [T, D], ordered by resolution, straight from uint8 pixels. LayerNorms,
projections and MLPs run on that sequence as it is; attention alone looks at the boundaries. Parameter names and
arithmetic are those of timm's ``vit_*_siglip_*`` inside open_clip's TimmModel (``visual.trunk.*``), so that exporting
is copying.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from silc.config import Config, VisionConfig
from silc.config.fields import Gelu
from silc.model import attention
from silc.model.dropping import Drawn, branch_scales, drop_rates, thinned
from silc.model.layers import Mlp, PackedLinear, RecipeLinear, RecipeNorm, layer_norm
from silc.model.pool import AttentionPool
from silc_kernels import PackedLayout, patch_embed, resize_positions

Rgb = tuple[float, float, float]


@dataclass(frozen=True)
class Pixels:
    """How the patch embedding reads uint8 crops.

    Attributes:
        mean, std: of pixels on [0, 1].
        backend: of ``silc_kernels.patch_embed``.
    """

    mean: Rgb = (0.5, 0.5, 0.5)
    std: Rgb = (0.5, 0.5, 0.5)
    backend: str = "auto"

    @classmethod
    def of(cls, config: Config) -> Pixels:
        """Those of a run."""
        return cls(config.data.mean, config.data.std, config.kernels.patch_embed)


DEFAULT_PIXELS = Pixels()


class PatchProjection(nn.Module):
    """Owns the patch weight [D, 3, p, p] and bias [D]; uint8 crops go in, packed tokens come out.

    Not `silc_kernels.MultiCropPatchEmbed`, which owns the position table as well: in a checkpoint that is the trunk's
    (`trunk.pos_embed` beside `trunk.patch_embed.proj.*`), and a sharded parameter must be read by its owner.
    """

    def __init__(self, width: int, patch_size: int, pixels: Pixels) -> None:
        super().__init__()
        self.pixels = pixels
        self.weight = nn.Parameter(torch.empty(width, 3, patch_size, patch_size))
        self.bias = nn.Parameter(torch.empty(width))

    def forward(self, crops: Sequence[Tensor], positions: list[Tensor]) -> Tensor:
        """crops [M_i, 3, H_i, W_i], positions [tokens_i, D] -> [T, D]."""
        mean, std, backend = self.pixels.mean, self.pixels.std, self.pixels.backend
        return patch_embed(list(crops), self.weight, self.bias, positions, mean=mean, std=std, backend=backend)


class PatchEmbed(nn.Module):
    """Holds the projection under timm's name, `patch_embed.proj`."""

    def __init__(self, width: int, patch_size: int, pixels: Pixels) -> None:
        super().__init__()
        self.proj = PatchProjection(width, patch_size, pixels)

    def forward(self, crops: Sequence[Tensor], positions: list[Tensor]) -> Tensor:
        return self.proj(crops, positions)


class Attention(nn.Module):
    """Multi-head self-attention within each crop of the packed sequence."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = RecipeLinear(width, 3 * width)
        self.proj = PackedLinear(width, width)

    def forward(self, x: Tensor, layout: PackedLayout, attend: attention.Attend) -> Tensor:
        return self.proj(attend(self.qkv(x), self.heads, layout))


class Block(nn.Module):
    """Pre-norm transformer block on a packed sequence [T, D]."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, gelu: Gelu) -> None:
        super().__init__()
        self.norm1 = RecipeNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = RecipeNorm(width)
        self.mlp = Mlp(width, mlp_ratio, gelu)

    def forward(
        self, x: Tensor, layout: PackedLayout, attend: attention.Attend, scales: Tensor | None = None
    ) -> Tensor:
        """scales: of drop path, [2, T, 1]: what each token multiplies attention and MLP by."""
        if scales is None:
            x = x + self.attn(self.norm1(x), layout, attend)
            return x + self.mlp(self.norm2(x))
        x = torch.addcmul(x, self.attn(self.norm1(x), layout, attend), scales[0])
        return torch.addcmul(x, self.mlp(self.norm2(x)), scales[1])


class Trunk(nn.Module):
    """Patch embedding, blocks, final norm and attention pooling, under timm's names."""

    def __init__(self, config: VisionConfig, *, attention: str, checkpoint_activations: bool, pixels: Pixels) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.attention = attention
        self.drop_rates = drop_rates(config.drop_path, config.depth) if config.drop_path else None
        self.patch_dropout = config.patch_dropout
        self.checkpoint_activations = checkpoint_activations
        side = config.image_size // config.patch_size
        self.grid = (side, side)
        self.patch_embed = PatchEmbed(config.width, config.patch_size, pixels)
        self.pos_embed = nn.Parameter(torch.empty(1, side * side, config.width))
        shape = (config.width, config.heads, config.mlp_ratio, config.gelu)
        self.blocks = nn.ModuleList(Block(*shape) for _ in range(config.depth))
        self.norm = layer_norm(config.width)
        self.attn_pool = AttentionPool(*shape)

    def forward(
        self, crops: Sequence[Tensor], dense: bool = False, drawn: Sequence[Drawn] | None = None
    ) -> list[Tensor]:
        """Pooled features [M_i, D] of each resolution, or with `dense` patch features [M_i, rows, columns, D].

        drawn: as for :meth:`VisionTower.forward`; not with `dense`.
        """
        x, layout, grids = self._embed(crops)
        scales: list[Tensor | None] | None = None
        if drawn is not None:
            assert not dense, "patches that are left out have no features"
            if self.patch_dropout:
                x, groups = thinned(x, layout, drawn, self.patch_dropout)
                layout = _layout(groups)
            if self.drop_rates is not None:
                scales = branch_scales(layout, drawn, self.drop_rates, x.dtype)
        x = self.norm(self._run(self.blocks, x, layout, scales))
        if dense:
            return [view.unflatten(1, grid) for view, grid in zip(layout.views(x), grids, strict=True)]
        return list(self.attn_pool(x, layout).split([len(crop) for crop in crops]))

    def value_path(self, crops: Sequence[Tensor]) -> list[Tensor]:
        """Patch features in the space of the pooled ones, [M_i, rows, columns, D]; see :meth:`VisionTower.value_path`.

        A token that attends to nothing but itself is given its own value: attention over sequences of one token each
        is the output projection of the values, in the last block and in the pool.
        """
        x, layout, grids = self._embed(crops)
        x = self._run(self.blocks[:-1], x, layout)
        alone = PackedLayout(((len(x), 1),))
        x = self.attn_pool(self.norm(self.blocks[-1](x, alone, attention.sdpa)), alone)
        return [view.unflatten(1, grid) for view, grid in zip(layout.views(x), grids, strict=True)]

    def _embed(self, crops: Sequence[Tensor]) -> tuple[Tensor, PackedLayout, list[tuple[int, int]]]:
        """Tokens with their positions [T, D], where each crop is among them, and the crops' grids."""
        grids = [(crop.shape[-2] // self.patch_size, crop.shape[-1] // self.patch_size) for crop in crops]
        layout = _layout(tuple((len(crop), rows * columns) for crop, (rows, columns) in zip(crops, grids, strict=True)))
        x = self.patch_embed(crops, [resize_positions(self.pos_embed, self.grid, grid) for grid in grids])
        return x, layout, grids

    def _run(
        self, blocks: nn.ModuleList, x: Tensor, layout: PackedLayout, scales: Sequence[Tensor | None] | None = None
    ) -> Tensor:
        attend = attention.choose(self.attention, x.device, x.dtype).attend
        for block, scale in zip(blocks, scales or [None] * len(blocks), strict=True):
            if self.checkpoint_activations and x.requires_grad:
                x = checkpoint(block, x, layout, attend, scale, use_reentrant=False)
            else:
                x = block(x, layout, attend, scale)
        return x


@lru_cache(maxsize=64)
def _layout(groups: tuple[tuple[int, int], ...]) -> PackedLayout:
    """One layout object per shape, so that what is derived from it (masks, compiled blocks) is made once."""
    return PackedLayout(groups)


class VisionTower(nn.Module):
    """The image tower; the extra level `trunk` is open_clip's.

    Args:
        config: sizes.
        attention: auto, sdpa or xformers (see :mod:`silc.model.attention`).
        checkpoint_activations: recompute each block in the backward pass.
        pixels: how the patch embedding reads uint8 crops.
    """

    def __init__(
        self,
        config: VisionConfig,
        *,
        attention: str = "auto",
        checkpoint_activations: bool = False,
        pixels: Pixels = DEFAULT_PIXELS,
    ) -> None:
        super().__init__()
        self.trunk = Trunk(config, attention=attention, checkpoint_activations=checkpoint_activations, pixels=pixels)

    def forward(self, crops: Sequence[Tensor], drawn: Sequence[Drawn] | None = None) -> list[Tensor]:
        """Encode crops of one or more resolutions in one pass.

        Args:
            crops: one tensor a resolution, uint8 [M_i, 3, H_i, W_i] (or floats that are normalised already); sides are
                multiples of the patch size, and may differ from the stored grid: the position table is resized.
            drawn: for each of `crops`, what decides which patches and branches are left out (`drop_path` and
                `patch_dropout` of the configuration); None: nothing is, as in the teacher and in evaluation.

        Returns:
            Pooled features [M_i, D], not normalised, one tensor for each of `crops`.
        """
        return self.trunk(crops, drawn=drawn)

    def dense(self, crops: Sequence[Tensor]) -> list[Tensor]:
        """Patch features after the final norm, [M_i, H_i / p, W_i / p, D] for each of `crops`."""
        return self.trunk(crops, dense=True)

    def value_path(self, crops: Sequence[Tensor]) -> list[Tensor]:
        """Patch features to compare with text embeddings, [M_i, H_i / p, W_i / p, D] for each of `crops`.

        MaskCLIP's value path (arXiv 2112.01071) for an attention-pooled tower: in the last block attention is replaced
        by the output projection of the values, residual and MLP kept; then the pool's value and output projections,
        norm and MLP are applied to each patch.
        """
        return self.trunk.value_path(crops)
