"""Where each crop's tokens lie in one packed sequence ordered by resolution."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class PackedLayout:
    """Layout of a packed sequence [total, D].

    Args:
        groups: (crops M_i, tokens_i a crop) for each resolution, in packing order; prefix tokens are counted in
            tokens_i. Each group is contiguous, so attention in a group needs neither a mask nor a concatenation.
    """

    groups: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        if not self.groups or any(crops < 1 or tokens < 1 for crops, tokens in self.groups):
            raise ValueError(f"PackedLayout: groups {self.groups} must be (crops >= 1, tokens >= 1), at least one")

    @cached_property
    def total(self) -> int:
        """Tokens in all."""
        return sum(crops * tokens for crops, tokens in self.groups)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """First row of each group, and the total at the end."""
        rows = [0]
        for crops, tokens in self.groups:
            rows.append(rows[-1] + crops * tokens)
        return tuple(rows)

    @cached_property
    def seqlens(self) -> list[int]:
        """Tokens of each crop, in packing order: what a block-diagonal mask is built from."""
        return [tokens for crops, tokens in self.groups for _ in range(crops)]

    @property
    def max_seqlen(self) -> int:
        return max(tokens for _, tokens in self.groups)

    def cu_seqlens(self, device: torch.device | str) -> Tensor:
        """[crops + 1] int32: first row of each crop, and the total, as variable-length attention wants it."""
        lengths = torch.tensor([0, *self.seqlens], dtype=torch.int32)
        return lengths.cumsum(0, dtype=torch.int32).to(device)

    def views(self, packed: Tensor) -> list[Tensor]:
        """packed [total, ...] -> a [M_i, tokens_i, ...] view of each group, no copy."""
        if packed.dim() < 1 or packed.shape[0] != self.total:
            raise ValueError(f"PackedLayout: packed has shape {list(packed.shape)}; this layout has {self.total} rows")
        parts = packed.split([crops * tokens for crops, tokens in self.groups])
        return [part.unflatten(0, group) for part, group in zip(parts, self.groups, strict=True)]
