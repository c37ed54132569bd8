"""One rank of many on one device: what it computes, without what travels.

Every other rank is taken to hold the same pairs as this one. Each collective then has a known result, made by a copy or
a sum on this device, so the loss and its gradients are right for such a batch and are gated against the peers like any
other. A measurement leaves out the wire, and its name says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from unittest import mock

import open_clip.loss
import torch
from open_clip.loss import ClipLoss, SigLipLoss
from torch import Tensor

from silc_kernels.common.collectives import Numbers, Pending, Ranks


class SameRanks(Ranks):
    """Ranks that all hold what this one holds."""

    def start_all_gather(self, tensor: Tensor) -> Pending:
        return Pending(self, "all_gather", tensor.expand(self.size, *tensor.shape).contiguous())

    def start_reduce_scatter(self, tensor: Tensor, out: Tensor) -> Pending:
        # What the others send here is what this rank sends to them.
        return Pending(self, "reduce_scatter", torch.sum(tensor, 0, out=out))

    def start_all_reduce(self, tensor: Tensor) -> Pending:
        return Pending(self, "all_reduce", tensor.mul_(self.size))

    def start_numbers(self, numbers: Sequence[int], device: torch.device) -> Numbers:
        return Numbers(torch.tensor([list(numbers)] * self.size), None)


@contextmanager
def among(size: int) -> Iterator[None]:
    """Within: silc_kernels' losses and open_clip's ClipLoss see `size` ranks, this one the first."""

    def gathered(image: Tensor, text: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        return image.repeat(size, 1), text.repeat(size, 1)

    def ranks(op: str, name: str) -> Ranks:
        return SameRanks(op, size, 0, None)

    with mock.patch.object(Ranks, "named_group", ranks), mock.patch.object(open_clip.loss, "gather_features", gathered):
        yield


def clip_loss(size: int) -> Callable[..., Tensor]:
    """open_clip's ClipLoss with local_loss and gather_with_grad, to be called `among(size)`."""
    return ClipLoss(local_loss=True, gather_with_grad=True, rank=0, world_size=size)


def siglip_loss(size: int) -> Callable[..., Tensor]:
    """open_clip's SigLipLoss: its block for the rank's own texts, and those of the others one after another."""
    loss = SigLipLoss()

    def over_ranks(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        total = loss._loss(image, text, scale, bias)
        for _ in range(size - 1):
            total = total + loss._loss(image, text, scale, bias, negative_only=True)
        return total

    return over_ranks


def inf_cl_loss(size: int) -> Callable[..., Tensor]:
    """Inf-CL's fused loss (arXiv 2410.17243): this rank's rows and columns, each over the features of all ranks.

    Its ring adds what every rank's features give and sends their gradients back, which is here the sum over copies. The
    package's own sum of the scale's gradient needs a process group, so it gets features that are scaled already.
    """
    from inf_cl import cal_flash_loss

    def over_ranks(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        # Features are cut into heads of a power of two, at most 256 wide.
        head = min(256, image.shape[1] & -image.shape[1])
        rows = cal_flash_loss(image * scale, text.repeat(size, 1), head_dim=head)
        columns = cal_flash_loss(text * scale, image.repeat(size, 1), head_dim=head)
        return (rows.mean() + columns.mean()) / 2

    return over_ranks
