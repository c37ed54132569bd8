"""The ops as Triton kernels. Nothing here is imported before a call wants it: `register_all` only leaves names."""

import importlib
from collections.abc import Callable
from typing import Any

from ..dispatch import register
from .runtime import supports

# op -> the module that implements it, under the op's name
OPS: dict[str, str] = {"contrastive_loss": "contrastive"}


def register_all() -> None:
    for op, module in OPS.items():
        register(op, "triton", _later(op, module), supports)


def _later(op: str, module: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(importlib.import_module(f".{module}", __package__), op)(*args, **kwargs)

    return call
