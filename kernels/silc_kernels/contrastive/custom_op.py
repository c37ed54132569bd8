"""contrastive_loss as one opaque operator for each backend: autograd, compilers and process groups meet here.

The gradients are found in the forward, with the loss: the features are gathered once, and the backward, where an engine
runs its own collectives, sends nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..common.collectives import Ranks, group_name
from ..common.first_order import once
from .agreement import PLANS, Call, recompute
from .passes import Options, Similarities, Tiles

NAME = "contrastive_loss"


def define(backend: str, engine: type[Tiles]) -> Callable[..., Tensor]:
    """The operator silc_kernels::contrastive_`backend`, and the function with a backend's arguments that calls it."""

    @torch.library.custom_op(f"silc_kernels::contrastive_{backend}", mutates_args=())
    def op(
        image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, group: str, call: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        asked = Call(*call)
        ranks = Ranks.named_group(NAME, group)
        again = recompute(ranks, image, text, asked)
        step = max(1, asked.chunk // ranks.size)
        options = Options(bool(asked.softmax), ranks, again, step, *map(bool, asked[3:]))
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


def _backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 6
    with torch.no_grad():
        gradients = _scaled(ctx, grad)
    # The inputs are not kept: a leaf in their place.
    cause = torch.empty(0, requires_grad=True)
    return *(None if each is None else once(NAME, each, cause) for each in gradients), None, None


def _scaled(ctx: Any, grad: Tensor) -> list[Tensor | None]:
    """Gradients of image, text, scale and bias where wanted, `grad` times what the forward has found."""
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
    return scaled
