"""contrastive_loss in plain torch: options and autograd; the passes over the similarities are in similarities.py.

The gradients are found in the forward, with the loss: the features are gathered once, and the backward, where an engine
runs its own collectives, sends nothing.
"""

import os

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..collectives import Ranks
from .similarities import Options, Similarities


def contrastive_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor | None = None,
    *,
    kind: str = "softmax",
    group: dist.ProcessGroup | None = None,
    plan: str = "auto",
    chunk: int = 4096,
) -> Tensor:
    """Plain-torch `silc_kernels.contrastive_loss` of image [V, n, d]; arguments are not checked."""
    ranks = Ranks.of("contrastive_loss", group)
    _check_equal_batches(ranks, image)
    if plan == "auto":
        one_node = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.size)) >= ranks.size
        plan = "reduce_scatter" if one_node else "recompute"
    if logit_bias is None:
        logit_bias = torch.zeros_like(logit_scale.detach())
    wanted = [torch.is_grad_enabled() and tensor.requires_grad for tensor in (image, text, logit_scale, logit_bias)]
    options = Options(kind == "softmax", ranks, plan == "recompute", max(1, chunk // ranks.size), *wanted)
    return _ContrastiveLoss.apply(image, text, logit_scale, logit_bias, options)


def _check_equal_batches(ranks: Ranks, image: Tensor) -> None:
    if ranks.size == 1:
        return
    shapes = ranks.all_gather(torch.tensor(image.shape, device=image.device)).tolist()
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(
            f"{ranks.op}: the ranks hold images of different shapes [V, n, d]: {shapes} (by rank); "
            "give every rank the same number of pairs, for instance by dropping the last incomplete batch"
        )


class _ContrastiveLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, image, text, scale, bias, options):
        sums, d_image, d_text = Similarities.of(image, text, scale, bias, options).solve()
        ctx.wanted = options.image_wanted, options.text_wanted, options.scale_wanted, options.bias_wanted
        ctx.like = [(tensor.shape, tensor.dtype) for tensor in (image, text, scale, bias)]
        if any(ctx.wanted):
            ctx.save_for_backward(d_image, d_text, sums)
        # A copy: a view of `sums` could not be returned and kept for backward too.
        return sums[0].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        d_image, d_text, sums = ctx.saved_tensors
        gradients = (d_image, d_text, sums[1], sums[2])
        scaled = (
            (gradient * grad).to(dtype).view(shape) if wanted else None
            for gradient, wanted, (shape, dtype) in zip(gradients, ctx.wanted, ctx.like, strict=True)
        )
        return *scaled, None
