"""Gradients that have no gradient of their own: an error where torch would take them for constants."""

import torch
from torch import Tensor


def once(op: str, gradient: Tensor, *causes: Tensor) -> Tensor:
    """`gradient`, as it is; in a backward with create_graph=True, differentiating it again raises a RuntimeError.

    torch's `once_differentiable` asks for this only where the upstream gradient wants a gradient, so that a penalty on
    the gradient of a loss would vanish without a word. Compiled code: torch itself refuses its second derivatives.

    Args:
        op: for the message.
        gradient: found without recording.
        causes: what it depends on: inputs of the forward, and the upstream gradient.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return gradient
    return _Once.apply(op, gradient, *causes)


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, op, gradient, *causes):
        ctx.op = op
        return gradient

    @staticmethod
    def backward(ctx, _):
        raise RuntimeError(
            f"{ctx.op} is differentiable once: its gradient, kept by create_graph=True, has no gradient. "
            "Use detached gradients in the loss, or the formula in plain torch for a penalty on them"
        )
