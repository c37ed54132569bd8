"""One rank of many on one device: what it computes, without what travels.

Every other rank is taken to hold the same pairs as this one. Each collective then has a known result, made by a copy or
a sum on this device, so the loss and its gradients are right for such a batch and are gated against the peers like any
other. A measurement leaves out the wire, and its name says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.kernels.peers import peer
from silc_kernels.common.collectives import Numbers, Pending, Ranks


class SameRanks(Ranks):
    """Ranks that all hold what this one holds."""

    def start_all_gather(self, tensor: Tensor) -> Pending:
        return Pending(self, "all_gather", torch.cat([tensor] * self.size))

    def start_reduce_scatter(self, tensor: Tensor, out: Tensor) -> Pending:
        # What the others send here is what this rank sends to them.
        return Pending(self, "reduce_scatter", torch.sum(tensor.view(self.size, *out.shape), 0, out=out))

    def start_all_reduce(self, tensor: Tensor) -> Pending:
        return Pending(self, "all_reduce", tensor.mul_(self.size))

    def start_numbers(self, numbers: Sequence[int], device: torch.device) -> Numbers:
        return Numbers(torch.tensor([list(numbers)] * self.size), None)


@contextmanager
def among(size: int) -> Iterator[None]:
    """Within: silc_kernels' losses and open_clip's ClipLoss, where there is one, see `size` ranks, this one first."""

    def gathered(image: Tensor, text: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        return image.repeat(size, 1), text.repeat(size, 1)

    def ranks(op: str, name: str) -> Ranks:
        return SameRanks(op, size, 0, None)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(Ranks, "named_group", ranks))
        if find_spec("open_clip") is not None:
            stack.enter_context(mock.patch("open_clip.loss.gather_features", gathered))
        yield


def clip_loss(size: int) -> Callable[..., Tensor] | None:
    """open_clip's ClipLoss with local_loss and gather_with_grad, to be called `among(size)`. None: not installed."""
    losses = peer("open_clip.loss")
    return losses and losses.ClipLoss(local_loss=True, gather_with_grad=True, rank=0, world_size=size)


def siglip_loss(size: int) -> Callable[..., Tensor] | None:
    """open_clip's SigLipLoss: its block for the rank's own texts, and those of the others one after another.

    None: not installed.
    """
    losses = peer("open_clip.loss")
    if losses is None:
        return None
    loss = losses.SigLipLoss()

    def over_ranks(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        total = loss._loss(image, text, scale, bias)
        for _ in range(size - 1):
            total = total + loss._loss(image, text, scale, bias, negative_only=True)
        return total

    return over_ranks


def eager_softmax(size: int) -> Callable[..., Tensor]:
    """The softmax loss in plain torch, for machines without open_clip: this rank's rows and columns, both whole."""

    def over_ranks(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
        positives = torch.arange(len(image), device=image.device)
        rows, columns = scale * image @ text.repeat(size, 1).t(), scale * text @ image.repeat(size, 1).t()
        return (functional.cross_entropy(rows, positives) + functional.cross_entropy(columns, positives)) / 2

    return over_ranks


def eager_sigmoid(size: int) -> Callable[..., Tensor]:
    """The sigmoid loss in plain torch: this rank's images against the texts of all ranks."""

    def over_ranks(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        logits = scale * image @ text.repeat(size, 1).t() + bias
        signs = 2 * torch.eye(*logits.shape, device=logits.device, dtype=logits.dtype) - 1
        return -functional.logsigmoid(signs * logits).sum() / len(image)

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
