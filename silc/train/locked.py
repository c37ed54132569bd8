"""Towers that are not trained (LiT, arXiv 2111.07991): which weights those are, and where their fp32 values are kept.

The optimiser does not know of them, so there are no masters, moments or gradients. What the forward pass uses is in its
own precision, rounded in bf16; what was given is kept beside it, to be saved and exported as it came.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from silc.config import OptimConfig
from silc.distributed import World

_PREFIXES = {"vision": "visual.", "text": "text."}


def lock(model: nn.Module, optim: OptimConfig) -> None:
    """Let no gradient be asked of the towers that `optim.locked` names; autograd then keeps nothing of their passes."""
    prefixes = tuple(_PREFIXES[name] for name in optim.locked)
    for name, parameter in model.named_parameters():
        if name.startswith(prefixes):
            parameter.requires_grad_(False)


class LockedWeights:
    """The fp32 values of a model's parameters that need no gradient, each on the CPU of one rank, in turn.

    Args:
        model: before DeepSpeed has it, the same on every rank.
        world: the ranks that share it.
    """

    def __init__(self, model: nn.Module, world: World) -> None:
        locked = {name: value.detach() for name, value in model.named_parameters() if not value.requires_grad}
        self._world = world
        self._owners = {name: place % world.size for place, name in enumerate(locked)}
        self._shapes = {name: value.shape for name, value in locked.items()}
        # No copies: where the forward pass is in fp32 on the CPU, they share its memory.
        self._held = {name: locked[name].float().cpu() for name, rank in self._owners.items() if rank == world.rank}

    def __contains__(self, name: str) -> bool:
        return name in self._owners

    def whole(self, name: str) -> Tensor:
        """The values of one parameter, fp32, on the device or the CPU (collective)."""
        if self._world.size == 1:
            return self._held[name]
        value = torch.empty(self._shapes[name], device=self._world.device)
        if name in self._held:
            value.copy_(self._held[name])
        dist.broadcast(value, src=self._owners[name])
        return value

    def take(self, name: str, value: Tensor) -> None:
        """Keep other values of a parameter; each rank gives the same."""
        if name in self._held:
            self._held[name] = value.detach().float().cpu().clone()
