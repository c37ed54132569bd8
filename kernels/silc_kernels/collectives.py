"""The few collectives the ops need, over a process group or alone; a failure names the op and the rank."""

from collections.abc import Callable
from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """The ranks that share an op. Without an initialised process group: one rank, and nothing is sent."""

    op: str
    size: int
    rank: int
    group: dist.ProcessGroup | None

    @classmethod
    def of(cls, op: str, group: dist.ProcessGroup | None) -> "Ranks":
        """`group`, or the default process group, or this process alone."""
        if not (dist.is_available() and dist.is_initialized()):
            if group is not None:
                raise ValueError(f"{op}: group is given but no process group is initialised; call init_process_group")
            return cls(op, 1, 0, None)
        return cls(op, dist.get_world_size(group), dist.get_rank(group), group)

    def all_gather(self, tensor: Tensor) -> Tensor:
        """[...] on each rank -> [size, ...] on every rank, ordered by rank."""
        if self.size == 1:
            return tensor.unsqueeze(0)
        # Flat: gloo takes no output with one dimension more than the input.
        out = tensor.new_empty(self.size * tensor.numel())
        flat = tensor.reshape(-1)
        self._guard("all_gather", lambda: dist.all_gather_into_tensor(out, flat, group=self.group))
        return out.view(self.size, *tensor.shape)

    def reduce_scatter(self, tensor: Tensor) -> Tensor:
        """[size, ...] on each rank -> the sum over ranks of its own entry, [...]."""
        if self.size == 1:
            return tensor[0]
        out = tensor.new_empty(tensor[0].numel())
        flat = tensor.reshape(-1)
        self._guard("reduce_scatter", lambda: dist.reduce_scatter_tensor(out, flat, group=self.group))
        return out.view(tensor.shape[1:])

    def all_reduce_(self, tensor: Tensor) -> Tensor:
        """In place: the sum over ranks."""
        if self.size > 1:
            self._guard("all_reduce", lambda: dist.all_reduce(tensor, group=self.group))
        return tensor

    def _guard(self, collective: str, call: Callable[[], object]) -> None:
        try:
            call()
        except RuntimeError as error:
            raise RuntimeError(
                f"{self.op}: {collective} failed on rank {self.rank} of {self.size}: another rank died, "
                f"left the step or is slower than the group's timeout ({error})"
            ) from error
