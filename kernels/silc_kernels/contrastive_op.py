"""contrastive_loss as one opaque operator for each backend: autograd, compilers and process groups meet here.

The gradients are found in the forward, with the loss: the features are gathered once, and the backward, where an engine
runs its own collectives, sends nothing.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from .collectives import Ranks, group_name
from .similarities import Options, Similarities, Tiles

NAME = "contrastive_loss"


def define(backend: str, engine: type[Tiles]) -> Callable[..., Tensor]:
    """The operator silc_kernels::contrastive_`backend`, and the function with a backend's arguments that calls it."""

    @torch.library.custom_op(f"silc_kernels::contrastive_{backend}", mutates_args=())
    def op(
        image: Tensor,
        text: Tensor,
        scale: Tensor,
        bias: Tensor,
        softmax: bool,
        group: str,
        plan: str,
        chunk: int,
        wanted: Sequence[bool],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`wanted`: whether image, text and scale get a gradient."""
        ranks = Ranks.named_group(NAME, group)
        _check_equal_batches(ranks, image)
        options = Options(softmax, ranks, _recompute(plan, ranks), max(1, chunk // ranks.size), *wanted)
        # Kernels are launched on the current device.
        with torch.cuda.device_of(image):
            solution = Similarities(image, text, scale, bias, options, engine).solve()
        loss, d_scalars, *features = solution
        return loss, d_scalars, *(loss.new_empty(0) if gradient is None else gradient for gradient in features)

    op.register_fake(_shapes)
    op.register_autograd(_backward, setup_context=_remember)

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
        """`silc_kernels.contrastive_loss` of image [V, n, d]; arguments are not checked."""
        if logit_bias is None:
            logit_bias = torch.zeros_like(logit_scale.detach())
        inputs = image, text, logit_scale, logit_bias
        wanted = [torch.is_grad_enabled() and tensor.requires_grad for tensor in inputs[:3]]
        return op(*inputs, kind == "softmax", group_name(NAME, group), plan, chunk, wanted)[0]

    return contrastive_loss


def _check_equal_batches(ranks: Ranks, image: Tensor) -> None:
    if ranks.size == 1:
        return
    shapes = ranks.all_gather_numbers(image.shape, image.device)
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(
            f"{ranks.op}: the ranks hold images of different shapes [V, n, d]: {shapes} (by rank); "
            "give every rank the same number of pairs, for instance by dropping the last incomplete batch"
        )


def _recompute(plan: str, ranks: Ranks) -> bool:
    if plan == "auto":
        return int(os.environ.get("LOCAL_WORLD_SIZE", ranks.size)) < ranks.size
    return plan == "recompute"


def _shapes(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    bias: Tensor,
    softmax: bool,
    group: str,
    plan: str,
    chunk: int,
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the operator returns, for compilers: loss [], d_scalars [2], d_image and d_text, empty if not wanted."""
    dtype = torch.promote_types(torch.promote_types(image.dtype, text.dtype), torch.float32)
    features = (
        like.new_empty(like.shape if needed else (0,), dtype=dtype)
        for like, needed in zip((image, text), wanted[:2], strict=True)
    )
    return image.new_empty((), dtype=dtype), image.new_empty((2,), dtype=dtype), *features


def _remember(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    _, *gradients = output
    ctx.mark_non_differentiable(*gradients)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*gradients)
    ctx.like = [(tensor.shape, tensor.dtype) for tensor in inputs[:4]]


@once_differentiable
def _backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 9
    d_scalars, d_image, d_text = ctx.saved_tensors
    gradients = d_image, d_text, d_scalars[0], d_scalars[1]
    scaled = (
        (gradient * grad).to(dtype).view(shape) if needed else None
        for gradient, needed, (shape, dtype) in zip(gradients, ctx.needs_input_grad, ctx.like, strict=False)
    )
    return *scaled, *(None,) * 5
