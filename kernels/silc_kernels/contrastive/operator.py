"""An operator of torch.library with little host time.

`torch.library.custom_op` registers the same; its wrappers cost each call some 30 us more, as much as five launches.
Where nothing looks on, the operator is left out: the dispatcher's way into Python and back costs as much again.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..common.direct import eager

NAMESPACE = "silc_kernels"
_LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")


def define(
    name: str,
    schema: str,
    compute: Callable[..., tuple[Tensor | None, ...]],
    shapes: Callable[..., tuple[Tensor, ...]],
    remember: Callable[[Any, tuple[Any, ...], Sequence[Tensor | None]], None],
    backward: Callable[[Any, Tensor | None], tuple[Tensor | None, ...]],
    tags: tuple[torch.Tag, ...] = (),
) -> Callable[..., Tensor]:
    """The operator silc_kernels::`name`, opaque to compilers, and the function that calls it or computes at once.

    The operator returns a value and what is kept for its gradients, the function the value; arguments are positional.

    Args:
        compute: what it does, on any device; returns new tensors, no views, or None for what is not wanted.
        shapes: of what the operator returns, on tensors without memory: what is not wanted is empty.
        remember: (ctx, inputs, what is kept), behind each call that is to be differentiated.
        backward: (ctx, gradient of the value) -> gradients of the inputs.
        tags: for compilers.
    """

    def owned(*inputs: Any) -> tuple[Tensor, ...]:
        value, *kept = compute(*inputs)
        assert value is not None
        # An operator returns no None, and no tensor twice.
        return value, *(value.new_empty(0) if each is None else each for each in kept)

    _LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag, *tags))
    _LIBRARY.impl(name, owned, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", shapes, lib=_LIBRARY)
    op: Callable[..., tuple[Tensor, ...]] = getattr(getattr(torch.ops, NAMESPACE), name).default

    class Recorded(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
            with torch._C._AutoDispatchBelowAutograd():
                value, *kept = op(*inputs)
            ctx.mark_non_differentiable(*kept)
            remember(ctx, inputs, kept)
            return value, *kept

        @staticmethod
        def backward(ctx: Any, grad: Tensor | None, *_: Any) -> Any:
            return backward(ctx, grad)

    class Direct(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Tensor | None:
            with torch._C._AutoDispatchBelowAutograd():
                value, *kept = compute(*inputs)
            remember(ctx, inputs, kept)
            return value

        @staticmethod
        def backward(ctx: Any, grad: Tensor | None) -> Any:
            return backward(ctx, grad)

    def record(*inputs: Any) -> Any:
        # Forward-mode AD would drop tangents without a word; a function that has no `jvp` refuses them.
        if _recorded(inputs) or forward_ad._current_level >= 0:
            return Recorded.apply(*inputs)
        with torch._C._AutoDispatchBelowAutograd():
            return op(*inputs)

    def call(*inputs: Any) -> Any:
        if not eager(inputs):
            return op(*inputs)[0]
        if _recorded(inputs):
            return Direct.apply(*inputs)
        with torch._C._AutoDispatchBelowAutograd():
            return compute(*inputs)[0]

    _LIBRARY.impl(name, record, "Autograd")
    return call


def _recorded(inputs: Sequence[Any]) -> bool:
    return torch.is_grad_enabled() and any(isinstance(each, Tensor) and each.requires_grad for each in inputs)
