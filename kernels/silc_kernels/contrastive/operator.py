"""An operator of torch.library with little host time.

`torch.library.custom_op` registers the same; its wrappers cost each call some 30 us more, as much as five launches.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

NAMESPACE = "silc_kernels"
_LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")


def define(
    name: str,
    schema: str,
    compute: Callable[..., tuple[Tensor, ...]],
    shapes: Callable[..., tuple[Tensor, ...]],
    remember: Callable[[Any, tuple[Any, ...], tuple[Tensor, ...]], None],
    backward: Callable[..., tuple[Tensor | None, ...]],
) -> Callable[..., tuple[Tensor, ...]]:
    """The operator silc_kernels::`name`, opaque to compilers, its arguments positional.

    Args:
        compute: what it does, on any device; returns new tensors, no input and no view of one.
        shapes: the same on tensors without memory.
        remember: (ctx, inputs, outputs), behind each call that is to be differentiated.
        backward: (ctx, *gradients of the outputs) -> gradients of the inputs.
    """
    _LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, compute, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", shapes, lib=_LIBRARY)
    op: Callable[..., tuple[Tensor, ...]] = getattr(getattr(torch.ops, NAMESPACE), name).default

    class Recorded(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
            with torch._C._AutoDispatchBelowAutograd():
                outputs = op(*inputs)
            remember(ctx, inputs, outputs)
            return outputs

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            return backward(ctx, *gradients)

    def record(*inputs: Any) -> Any:
        wanted = torch.is_grad_enabled() and any(isinstance(each, Tensor) and each.requires_grad for each in inputs)
        # Forward-mode AD would drop tangents without a word; a function that has no `jvp` refuses them.
        if wanted or forward_ad._current_level >= 0:
            return Recorded.apply(*inputs)
        with torch._C._AutoDispatchBelowAutograd():
            return op(*inputs)

    _LIBRARY.impl(name, record, "Autograd")
    return op
