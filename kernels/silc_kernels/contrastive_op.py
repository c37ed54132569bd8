"""contrastive_loss as one opaque operator for each backend: autograd, compilers and process groups meet here.

The gradients are found in the forward, with the loss: the features are gathered once, and the backward, where an engine
runs its own collectives, sends nothing.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from .collectives import Ranks, group_name
from .similarities import Options, Similarities, Tiles

NAME = "contrastive_loss"


PLANS = ("auto", "reduce_scatter", "recompute")


class Call(NamedTuple):
    """What is asked of the operator, in whole numbers.

    One argument: each of its own would make every call some 10 us longer, which the loss of a small batch feels.

    Attributes:
        plan: index into PLANS.
        image_wanted, text_wanted, scale_wanted: whether they get a gradient.
    """

    softmax: int
    plan: int
    chunk: int
    image_wanted: int
    text_wanted: int
    scale_wanted: int


def define(backend: str, engine: type[Tiles]) -> Callable[..., Tensor]:
    """The operator silc_kernels::contrastive_`backend`, and the function with a backend's arguments that calls it."""

    @torch.library.custom_op(f"silc_kernels::contrastive_{backend}", mutates_args=())
    def op(
        image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, group: str, call: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        softmax, plan, chunk, *wanted = Call(*call)
        ranks = Ranks.named_group(NAME, group)
        _check_equal_batches(ranks, image)
        step = max(1, chunk // ranks.size)
        options = Options(bool(softmax), ranks, _recompute(PLANS[plan], ranks), step, *map(bool, wanted))
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
        wanted = [int(torch.is_grad_enabled() and tensor.requires_grad) for tensor in inputs[:3]]
        call = [int(kind == "softmax"), PLANS.index(plan), chunk, *wanted]
        return op(*inputs, group_name(NAME, group), call)[0]

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
    image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, group: str, call: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the operator returns, for compilers: loss [], d_scalars [3], d_image and d_text, empty if not wanted."""
    dtype = torch.promote_types(torch.promote_types(image.dtype, text.dtype), torch.float32)
    wanted = Call(*call)
    features = (
        like.new_empty(like.shape if needed else (0,), dtype=dtype)
        for like, needed in ((image, wanted.image_wanted), (text, wanted.text_wanted))
    )
    return image.new_empty((), dtype=dtype), image.new_empty((3,), dtype=dtype), *features


def _remember(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    _, *gradients = output
    ctx.mark_non_differentiable(*gradients)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*gradients)
    ctx.like = [(tensor.shape, tensor.dtype) for tensor in inputs[:4]]


@once_differentiable
def _backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 6
    d_scalars, d_image, d_text = ctx.saved_tensors
    factor, d_scale, d_bias = (d_scalars * grad).unbind()
    scaled = []
    for index, gradient in enumerate((d_image, d_text, d_scale, d_bias)):
        shape, dtype = ctx.like[index]
        if not ctx.needs_input_grad[index]:
            scaled.append(None)
        elif index < 2:
            scaled.append((gradient * factor).to(dtype))
        else:
            scaled.append(gradient.to(dtype, copy=True).view(shape))
    return *scaled, None, None
