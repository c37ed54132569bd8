"""Whether the functions of operators may be called as they are, without torch's dispatcher: it takes 10 to 20 us a call
of many tensors, for those who look on, and mostly nobody does.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from ..common.direct import eager


def unwatched(tensors: Iterable[Tensor | None]) -> bool:
    """No compiler, tracer or mode is at work that operators are for, no profiler that names them, and all `tensors`
    are plain, with values.
    """
    return eager(tensors) and not torch._C._autograd._profiler_enabled()
