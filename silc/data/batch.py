"""The training data of one rank for one step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor


class Skip(NamedTuple):
    """A sample that could not be used: its shard/key, and the reason."""

    key: str
    reason: str


@dataclass(frozen=True)
class Batch:
    """A rank's share of a global batch: b samples.

    Attributes:
        large: uint8 [b, n_original + n_global, 3, R, R]; the original, if any, comes first.
        small: uint8 [b, n_local, 3, r, r]; None without local crops.
        tokens: int64 [b, context_length].
        keys: shard/key of each sample, b of them.
        n_original: 0 or 1.
        position: in the stream, after the last sample of the whole global batch; a run continues from here.
        skipped: unusable samples of this rank's share, which others replaced.
    """

    large: Tensor
    small: Tensor | None
    tokens: Tensor
    keys: list[str]
    n_original: int
    position: int
    skipped: list[Skip]

    def __len__(self) -> int:
        return len(self.keys)

    def split(self, size: int) -> list[Batch]:
        """Micro-batches of `size` samples, which must divide the batch. `skipped` stays with the whole batch."""
        assert len(self) % size == 0
        small = [None] * (len(self) // size) if self.small is None else self.small.split(size)
        parts = zip(self.large.split(size), small, self.tokens.split(size), range(0, len(self), size), strict=True)
        return [
            replace(self, large=large, small=small, tokens=tokens, keys=self.keys[at : at + size], skipped=[])
            for large, small, tokens, at in parts
        ]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The batch with its tensors on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory, whose copies to a GPU do not block. Called by the DataLoader."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        small = None if self.small is None else change(self.small)
        return replace(self, large=change(self.large), small=small, tokens=change(self.tokens))
