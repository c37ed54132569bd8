"""Whether the functions of operators may be called as they are, without torch's dispatcher: it takes 10 to 20 us a call
of many tensors, for those who look on, and mostly nobody does.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

PLAIN = (Tensor, torch.nn.Parameter)  # not one of a tracer's, or of shards


def unwatched(tensors: Iterable[Tensor | None]) -> bool:
    """No compiler, tracer or mode is at work that operators are for, no profiler that names them, and all `tensors`
    are plain, with values.
    """
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack():
        return False
    if torch._C._get_tracing_state() is not None or torch._C._autograd._profiler_enabled():
        return False
    for tensor in tensors:  # noqa: SIM110 - `all` of a generator takes twice as long
        if tensor is not None and (type(tensor) not in PLAIN or tensor.is_meta):
            return False
    return True
