"""One registry of (op, backend): which implementations exist, which one a call gets, and why."""

import functools
import importlib
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .limits import LIMITS
from .transforms import refuse_transforms
from .triton_runtime import supports

ENVIRONMENT_VARIABLE = "SILC_KERNELS_BACKEND"
AUTO = "auto"
# Earlier names of backends, still accepted -> the names of today.
RENAMED = {"reference": "torch"}

Supports = Callable[[torch.device, Sequence[Tensor]], tuple[bool, str]]


@dataclass(frozen=True)
class Backend:
    """One implementation of one op. `supports(device, tensors)` answers (bool, reason); no tensors: in general."""

    fn: Callable[..., Tensor]
    supports: Supports


class Row(NamedTuple):
    """One line of a start banner."""

    op: str
    backend: str
    reason: str


_REGISTRY: dict[str, dict[str, Backend]] = {}
_IMPORTED: dict[tuple[str, str], Callable[..., Tensor]] = {}


def anywhere(device: torch.device, tensors: Sequence[Tensor]) -> tuple[bool, str]:
    """`supports` of an implementation in plain torch."""
    return True, "plain torch, runs on any device"


def register(op: str, backend: str, fn: Callable[..., Tensor], supports: Supports = anywhere) -> None:
    """Add or replace the implementation `backend` of `op`; `fn` takes the public signature without `backend`."""
    if backend == AUTO:
        raise ValueError(f"{AUTO!r} names the automatic choice, not a backend; register under another name")
    _REGISTRY.setdefault(op, {})[backend] = Backend(fn, supports)


def later(module: str, op: str) -> Callable[..., Tensor]:
    """The function `op` of `module` ("silc_kernels.distill.triton_logits"), imported when a call first wants it.

    A public face thus costs no import of triton.
    """

    def call(*args: Any, **kwargs: Any) -> Tensor:
        _import(module, op)
        return _IMPORTED[module, op](*args, **kwargs)

    return call


@torch.compiler.assume_constant_result  # an import cannot be traced
def _import(module: str, op: str) -> None:
    _IMPORTED[module, op] = getattr(importlib.import_module(module), op)


def triton_takes(op: str) -> Supports:
    """`supports` of the Triton kernels of `op`: the place must suit Triton, and the call the kernels' limits."""

    def takes(device: torch.device, tensors: Sequence[Tensor]) -> tuple[bool, str]:
        able, where = supports(device, tensors)
        refused = LIMITS[op](*tensors) if able and tensors and op in LIMITS else ""
        return (False, refused) if refused else (able, where)

    return takes


def choose(op: str, where: torch.device | Sequence[Tensor], backend: str = AUTO) -> Callable[..., Tensor]:
    """The function that runs `op` on these tensors (or this device).

    An explicit `backend` wins over the environment variable SILC_KERNELS_BACKEND, which wins over the automatic
    choice: "triton" on a CUDA device where it is registered and takes the call, "torch" otherwise.

    Raises:
        ValueError: the forced backend is not registered for `op`, or refuses this call; the message says why.
    """
    name, _ = _decide(op, where, backend)
    return _REGISTRY[op][name].fn


def run(op: str, tensors: Sequence[Tensor], backend: str, *args: Any, **kwargs: Any) -> Tensor:
    """Call the chosen implementation of `op`, autocast off: each op fixes its own precision.

    Raises:
        ValueError: as `choose` does.
        RuntimeError: a tensor of a forward-mode derivative, or of a transform such as torch.func.vmap.
    """
    refuse_transforms(op, args, kwargs.values())
    fn = choose(op, tensors, backend)
    with without_autocast(tensors[0].device):
        return fn(*args, **kwargs)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Autocast off. Backwards need it of their own: they may run where the caller has autocast on."""
    # Shapes alone, on the meta device, have no autocast, and torch refuses the question.
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def report(device: torch.device | str, backends: Mapping[str, str] | None = None) -> list[Row]:
    """Which backend each op gets on `device` and why, a row an op; `backends` maps an op to the one asked for.

    Raises:
        ValueError: an op or a backend asked for is not registered, or cannot run there; or torch cannot use `device`.
    """
    place, asked = torch.device(device), backends or {}
    for op in asked:
        _check_registered(op)
    try:
        return [Row(op, *_decide(op, place, asked.get(op, AUTO))) for op in sorted(_REGISTRY)]
    except (RuntimeError, AssertionError) as error:  # of torch, without a driver, such a device, or CUDA at all
        raise ValueError(f"report: torch cannot use {str(place)!r} here; ask for 'cpu' ({error})") from error


def _check_registered(op: str) -> None:
    if op not in _REGISTRY:
        raise ValueError(f"unknown op {op!r}; registered: {', '.join(sorted(_REGISTRY))}")


def _decide(op: str, where: torch.device | Sequence[Tensor], backend: str) -> tuple[str, str]:
    _check_registered(op)
    tensors: Sequence[Tensor] = () if isinstance(where, torch.device) else where
    device = where if isinstance(where, torch.device) else where[0].device
    registered = _REGISTRY[op]
    forced_by = "the backend argument"
    if backend == AUTO:
        backend = os.environ.get(ENVIRONMENT_VARIABLE) or AUTO  # empty: not set
        forced_by = f"{ENVIRONMENT_VARIABLE}={backend}"
    if backend != AUTO:
        backend = _today(backend)
        if backend not in registered:
            names = ", ".join(sorted(registered))
            raise ValueError(f"{op}: no backend {backend!r} (forced by {forced_by}); registered: {names}, or {AUTO!r}")
        supported, reason = registered[backend].supports(device, tensors)
        if not supported:
            raise ValueError(f"{op}: backend {backend!r}, forced by {forced_by}, cannot run this call: {reason}")
        return backend, f"forced by {forced_by}"
    if device.type != "cuda":
        return "torch", f"plain torch, chunked: the choice on {device.type}"
    if "triton" not in registered:
        return "torch", "plain torch, chunked: no triton kernel is registered"
    supported, reason = registered["triton"].supports(device, tensors)
    return ("triton" if supported else "torch"), reason


def _today(backend: str) -> str:
    """The name of today of a backend that may be asked for by an earlier one."""
    if backend not in RENAMED:
        return backend
    if not torch.compiler.is_compiling():  # a warning cannot be traced
        _warn_renamed(backend)
    return RENAMED[backend]


@functools.cache  # once a process
def _warn_renamed(backend: str) -> None:
    warnings.warn(
        f"silc_kernels: the backend {backend!r} is now called {RENAMED[backend]!r}; the earlier name is still accepted",
        FutureWarning,
        stacklevel=2,
    )
