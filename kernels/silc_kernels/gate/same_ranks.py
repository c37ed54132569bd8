"""One rank of many in this process: what it computes, without a process group.

All ranks hold what this one holds, so each collective has a known result, made here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor

from ..common import collectives


class _Done:
    """A collective that has arrived."""

    def wait(self) -> None:
        pass


class _Distributed:
    """Takes the place of torch.distributed in silc_kernels.common.collectives."""

    def __init__(self, size: int) -> None:
        self._size = size

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def get_world_size(self, group: object) -> int:
        return self._size

    def get_rank(self, group: object) -> int:
        """Neither the first nor the last, where there is such a one."""
        return self._size // 2

    def all_gather_into_tensor(self, out: Tensor, sent: Tensor, group: object, async_op: bool) -> _Done:
        out.view(self._size, -1).copy_(sent.reshape(1, -1).expand(self._size, -1))
        return _Done()

    def reduce_scatter_tensor(self, out: Tensor, sent: Tensor, group: object, async_op: bool) -> _Done:
        # What the others send here is what this rank sends to them.
        torch.sum(sent.view(self._size, -1), 0, out=out.view(-1))
        return _Done()

    def all_reduce(self, tensor: Tensor, group: object, async_op: bool) -> _Done:
        tensor.mul_(self._size)
        return _Done()


@contextmanager
def same_ranks(size: int) -> Iterator[None]:
    """Ops called within see `size` ranks, each with the tensors of this one; 1: nothing changes."""
    if size == 1:
        yield
        return
    with patch.object(collectives, "dist", _Distributed(size)):
        yield
