"""Tensors without contents: torch's ops give results of the right shape, and compute nothing that is large.

So an op of silc_kernels can be taken through its launches at full size, in no time and no memory, on a machine that
could not run it; see precompile.py. Views, small tensors and what Python asks for are real.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map, tree_map_only

CPU = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
SMALL = 1 << 16  # elements: such tensors are computed, as ops look at the values of some


class Hollow(TorchDispatchMode):
    """Within: results of more than SMALL elements are taken from memory that is never written."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "silc_kernels":  # what it launches and calls is to be seen here too
            with self:
                return func.redispatch(CPU, *args, **kwargs)
        given = _tensors((args, kwargs))
        if not given:  # an op that makes a tensor of nothing: as large as it says
            made = _made(func, args, kwargs)
            return func(*args, **kwargs) if all(tensor.numel() <= SMALL for tensor in _tensors(made)) else made
        if all(tensor.numel() <= SMALL for tensor in given):
            return func(*args, **kwargs)
        return (_unwritten if _changes_or_views(func) else _made)(func, args, kwargs)


def _tensors(tree: Any) -> list[Tensor]:
    found: list[Tensor] = []
    tree_map_only(Tensor, found.append, tree)
    return found


def _changes_or_views(func: Any) -> bool:
    return any(argument.alias_info is not None for argument in func._schema.arguments)


def _unwritten(func: Any, args: Any, kwargs: Any) -> Any:
    """A view is made; what an op would change is returned as it is."""
    written = [argument for argument in func._schema.arguments if argument.alias_info and argument.alias_info.is_write]
    if not written:
        return func(*args, **kwargs)
    names = [argument.name for argument in func._schema.arguments]
    values = dict(zip(names, args, strict=False)) | kwargs
    found = [values[argument.name] for argument in written]
    return found[0] if len(func._schema.returns) <= 1 else tuple(found)


def _made(func: Any, args: Any, kwargs: Any) -> Any:
    """The result's shape is worked out on the meta device; its memory is asked for, and never touched."""
    shapes = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
    args, kwargs = tree_map(lambda value: torch.device("meta") if isinstance(value, torch.device) else value, shapes)
    if "generator" in kwargs:
        kwargs["generator"] = None
    return tree_map_only(Tensor, _empty, func(*args, **kwargs))


def _empty(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
