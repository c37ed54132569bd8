"""Forward-mode derivatives and torch.func's transforms, which the ops do not take: an error in words, where torch
would give a tangent of 0, or speak of its own insides.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch
from torch.autograd import forward_ad


def refuse_transforms(op: str, *arguments: Iterable[Any]) -> None:
    """Raise where a tensor in one of `arguments`, or in a list or tuple there, has a tangent or belongs to a transform.

    Tensors that take no part in a transform pass here, though torch refuses some ops within any. Where none is open,
    nothing is looked at.

    Raises:
        RuntimeError: names the op, the transform and the way out.
    """
    # The compiler cannot look into torch.func's transforms; forward mode it traces with its level open.
    forward = forward_ad._current_level >= 0
    if not forward and (_functorch.peek_interpreter_stack() is None or torch.compiler.is_compiling()):
        return
    tensors = [tensor for group in arguments for tensor in _tensors(group)]
    if forward and any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors):
        raise RuntimeError(
            f"{op} has no forward-mode derivative (torch.func.jvp, jacfwd, dual tensors); "
            "use reverse mode: backward(), or torch.autograd.grad"
        )
    if torch.compiler.is_compiling():
        return
    if any(map(_functorch.is_batchedtensor, tensors)):
        raise RuntimeError(f"{op} does not run under torch.func.vmap; call it in a loop, once for each entry")
    # What is computed inside of a transform is wrapped, even if it does not depend on the transform's inputs.
    if any(_functorch.is_gradtrackingtensor(tensor) and tensor.requires_grad for tensor in tensors):
        raise RuntimeError(
            f"{op} does not run under torch.func.grad, vjp, jacrev or hessian; use backward(), or torch.autograd.grad"
        )


def _tensors(arguments: Iterable[Any]) -> Iterator[Tensor]:
    for argument in arguments:
        if isinstance(argument, Tensor):
            yield argument
        elif isinstance(argument, list | tuple):
            yield from _tensors(argument)
