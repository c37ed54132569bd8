"""Whether an operator's own function may be called, past torch's dispatcher; a division without triton's wrapper."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch
from torch.autograd import forward_ad

PLAIN = (Tensor, torch.nn.Parameter)  # not one of a tracer's, or of shards


def eager(values: Iterable[Any]) -> bool:
    """Whether nothing looks on: no compiler, tracer, mode or transform, and tensors are plain, with memory."""
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack():
        return False
    if torch._C._get_tracing_state() is not None or forward_ad._current_level >= 0:
        return False
    if _functorch.peek_interpreter_stack() is not None:
        return False
    for value in values:  # noqa: SIM110 - `all` of a generator takes twice as long
        if isinstance(value, Tensor) and (type(value) not in PLAIN or value.is_meta):
            return False
    return True


def cdiv(whole: int, part: int) -> int:
    """Rounded up. triton.cdiv serves kernels too, and takes microseconds."""
    return -(-whole // part)
