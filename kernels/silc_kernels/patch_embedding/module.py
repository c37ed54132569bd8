"""Multi-crop patch embedding as a module: weight, bias, one base position table resized to each resolution, prefix."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..common.checks import check_grid, check_statistics
from .ops import patch_embed, patch_grid
from .packed import PackedLayout
from .positions import resize_to_each


class MultiCropPatchEmbed(nn.Module):
    """Byte crops of several resolutions -> one packed token sequence; see `patch_embed` for what is computed.

    Holds what a ViT checkpoint of timm's layout holds: `weight` and `bias` are those of its `patch_embed.proj`,
    `pos_embed` [1, rows * columns, D] is its table without the rows of prefix tokens. The parameters are read in this
    module's own forward, so that it may be sharded (ZeRO-3, FSDP).

    Args:
        width: D.
        patch_size: p, sides of a patch in pixels.
        grid: (rows, columns) of the base position table; for other grids it is resized (bicubic, antialias), and its
            gradient is that of the resize.
        mean, std: three numbers each, of pixels in [0, 1].
        prefix_tokens: learned tokens before each crop's, such as a class token or registers; no position is added.
        out_dtype: of the tokens; None: the weight's.
        backend: see `patch_embed`.
    """

    def __init__(
        self,
        width: int,
        patch_size: int,
        grid: tuple[int, int],
        *,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        prefix_tokens: int = 0,
        out_dtype: torch.dtype | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        op = "MultiCropPatchEmbed"
        if min(width, patch_size) < 1 or prefix_tokens < 0:
            raise ValueError(
                f"{op}: width {width} and patch_size {patch_size} must be at least 1, "
                f"prefix_tokens {prefix_tokens} at least 0"
            )
        check_grid(op, "grid", grid)
        check_statistics(op, mean, std)
        # Sizes are kept apart from the parameters, whose shapes are gone while they are sharded.
        self.patch_size, self.prefix_tokens, self.grid = patch_size, prefix_tokens, (grid[0], grid[1])
        self.mean, self.std = tuple(mean), tuple(std)
        self.out_dtype, self.backend = out_dtype, backend
        self.weight = nn.Parameter(torch.empty(width, 3, patch_size, patch_size))
        self.bias = nn.Parameter(torch.empty(width))
        self.pos_embed = nn.Parameter(torch.empty(1, grid[0] * grid[1], width))
        self.prefix = nn.Parameter(torch.empty(prefix_tokens, width)) if prefix_tokens else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A convolution's first weights, and timm's deviation of 0.02 for tables and tokens."""
        bound = self.weight[0].numel() ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)
        nn.init.normal_(self.pos_embed, std=0.02)
        if self.prefix is not None:
            nn.init.normal_(self.prefix, std=0.02)

    def grids(self, crops: Sequence[Tensor]) -> list[tuple[int, int]]:
        """(rows, columns) of patches of each resolution."""
        return [patch_grid("MultiCropPatchEmbed", i, crop, self.patch_size) for i, crop in enumerate(crops)]

    def layout(self, crops: Sequence[Tensor]) -> PackedLayout:
        """Where the tokens of `crops` lie in the packed sequence."""
        groups = zip(crops, self.grids(crops), strict=True)
        return PackedLayout(tuple((len(crop), self.prefix_tokens + rows * columns) for crop, (rows, columns) in groups))

    def forward(self, crops: Sequence[Tensor]) -> Tensor:
        """crops: one [M_i, 3, H_i, W_i] a resolution -> packed [total, D], laid out as `layout(crops)`.

        Raises:
            ValueError: as `patch_embed` does.
        """
        tables = resize_to_each(self.pos_embed, self.grid, self.grids(crops))
        return patch_embed(
            crops,
            self.weight,
            self.bias,
            tables,
            mean=self.mean,
            std=self.std,
            prefix=self.prefix,
            out_dtype=self.out_dtype,
            backend=self.backend,
        )
