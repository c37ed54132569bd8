"""The training data of one rank for one step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from silc.data.views.device import DeviceWork, finished


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
        work: what is left to do to the views, see :mod:`silc.data.views.device`; `to` does it. None: they are ready.
            Views that are still to be cut are shapes alone, on the meta device.
        truncated: captions of this rank's share of which the model reads the beginning alone.
    """

    large: Tensor
    small: Tensor | None
    tokens: Tensor
    keys: list[str]
    n_original: int
    position: int
    skipped: list[Skip]
    work: DeviceWork | None = None
    truncated: int = 0

    def __len__(self) -> int:
        return len(self.keys)

    def split(self, size: int) -> list[Batch]:
        """Micro-batches of `size` samples, which must divide the batch. `skipped` and `truncated` stay with the whole
        batch.
        """
        assert len(self) % size == 0
        assert self.work is None
        small = [None] * (len(self) // size) if self.small is None else self.small.split(size)
        parts = zip(self.large.split(size), small, self.tokens.split(size), range(0, len(self), size), strict=True)
        rest = replace(self, skipped=[], truncated=0)
        return [
            replace(rest, large=large, small=small, tokens=tokens, keys=self.keys[at : at + size])
            for large, small, tokens, at in parts
        ]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The batch with its tensors on a device, its views ready."""
        if self.work is None:
            return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))
        views = [self.large] if self.small is None else [self.large, self.small]
        large, *small = finished(views, self.work, device, non_blocking)
        tokens = self.tokens.to(device, non_blocking=non_blocking)
        return replace(self, large=large, small=small[0] if small else None, tokens=tokens, work=None)

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory, whose copies to a GPU do not block. Called by the DataLoader."""
        pinned = self._each(lambda tensor: tensor if tensor.is_meta else tensor.pin_memory())
        return pinned if self.work is None else replace(pinned, work=self.work.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        small = None if self.small is None else change(self.small)
        return replace(self, large=change(self.large), small=small, tokens=change(self.tokens))
