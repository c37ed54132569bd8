"""The ops as Triton kernels. Nothing here is imported before a call wants it: `register_all` only leaves names."""

import importlib
from collections.abc import Callable
from typing import Any

import torch

from ..dispatch import register
from .runtime import supports

# op -> the module that implements it, under the op's name
OPS: dict[str, str] = {"contrastive_loss": "contrastive"}
_IMPORTED: dict[str, Callable[..., Any]] = {}


def register_all() -> None:
    for op, module in OPS.items():
        register(op, "triton", _later(op, module), supports)


def _later(op: str, module: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        _import(op, module)
        return _IMPORTED[op](*args, **kwargs)

    return call


@torch.compiler.assume_constant_result  # an import cannot be traced
def _import(op: str, module: str) -> None:
    _IMPORTED[op] = getattr(importlib.import_module(f".{module}", __package__), op)
