"""The ops as Triton kernels. Nothing here is imported before a call wants it: `register_all` only leaves names."""

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..dispatch import register
from .limits import LIMITS
from .runtime import supports

# op -> the module that implements it, under the op's name
OPS: dict[str, str] = {
    "contrastive_loss": "contrastive",
    "distill_head_loss": "distill_head",
    "distill_loss": "distill",
    "patch_embed": "patches",
}
_IMPORTED: dict[str, Callable[..., Any]] = {}


def register_all() -> None:
    for op, module in OPS.items():
        register(op, "triton", _later(op, module), functools.partial(_takes, op))


def _takes(op: str, device: torch.device, tensors: Sequence[Tensor]) -> tuple[bool, str]:
    able, where = supports(device, tensors)
    refused = LIMITS[op](*tensors) if able and tensors and op in LIMITS else ""
    return (False, refused) if refused else (able, where)


def _later(op: str, module: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        _import(op, module)
        return _IMPORTED[op](*args, **kwargs)

    return call


@torch.compiler.assume_constant_result  # an import cannot be traced
def _import(op: str, module: str) -> None:
    _IMPORTED[op] = getattr(importlib.import_module(f".{module}", __package__), op)
