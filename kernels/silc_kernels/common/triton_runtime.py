"""Where the Triton ops run: on a GPU, or under the interpreter on a CPU (TRITON_INTERPRET=1)."""

import functools
import importlib.util
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

INTERPRET = os.environ.get("TRITON_INTERPRET", "0") == "1"
OLDEST = (8, 0)  # bf16 products and asynchronous copies
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Chip(NamedTuple):
    """What launches depend on. architecture: 80, 86, 89, 90, 100, ..."""

    architecture: int
    multiprocessors: int


_stand_in: Chip | None = None


@contextmanager
def standing_in(chip: Chip) -> Iterator[None]:
    """CPU tensors count as lying on `chip` until the end of the block: for a driver that launches nothing."""
    global _stand_in
    before, _stand_in = _stand_in, chip
    try:
        yield
    finally:
        _stand_in = before


def supports(device: torch.device, tensors: Sequence[Tensor]) -> tuple[bool, str]:
    """Whether the Triton kernels take a call on `device` with these tensors, and why (not)."""
    able, where = (True, "compiled, not run") if _stand_in and device.type == "cpu" else _runs_on(device)
    if not able:
        return False, where
    for tensor in tensors:
        if tensor.is_floating_point() and tensor.dtype not in DTYPES:
            return False, f"the kernels take float32, bfloat16 and float16, not {tensor.dtype}"
    return True, where


@torch.compiler.assume_constant_result  # what is installed cannot be traced, and does not change
def _runs_on(device: torch.device) -> tuple[bool, str]:
    if importlib.util.find_spec("triton") is None:
        return False, "triton is not installed"
    if device.type == "cuda" and not INTERPRET:
        if torch.version.hip:
            return False, "the kernels are made for NVIDIA's chips; this is AMD's (ROCm), where none has run"
        return _suits(device)
    if INTERPRET:
        return True, "Triton's interpreter (TRITON_INTERPRET=1): slow, for tests"
    return False, f"Triton needs a CUDA device, not {device.type}; for tests set TRITON_INTERPRET=1 before starting"


@functools.cache  # asked in every call of every op
def _suits(device: torch.device) -> tuple[bool, str]:
    if torch.cuda.get_device_capability(device) < OLDEST:
        return False, f"{torch.cuda.get_device_name(device)} is older than compute capability 8.0"
    return True, f"Triton on {torch.cuda.get_device_name(device)}"


def multiprocessors(device: torch.device) -> int:
    """How many programs run side by side at least; a handful under the interpreter, so that splits are exercised."""
    return _chip(device).multiprocessors


def capability(device: torch.device) -> int:
    """80, 86, 89, 90, 100, ...; 90 under the interpreter."""
    return _chip(device).architecture


def _chip(device: torch.device) -> Chip:
    if device.type != "cuda":
        return _stand_in or Chip(90, 4)
    return _gpu(device)


@functools.cache
def _gpu(device: torch.device) -> Chip:
    major, minor = torch.cuda.get_device_capability(device)
    return Chip(10 * major + minor, torch.cuda.get_device_properties(device).multi_processor_count)


def family(architecture: int) -> int:
    """Whose launch configurations a chip takes: 90 and 100 for data-center chips of these, 80 for all others."""
    return {90: 90, 100: 100, 103: 100}.get(architecture, 80)


def product_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that `tl.dot` multiplies in. The interpreter's bf16 arithmetic is wrong: there it is float32."""
    return torch.float32 if INTERPRET else dtype


def exponent_scale(temp: float) -> float:
    """log2(e) / temp: kernels take exponentials in base 2."""
    return math.log2(math.e) / temp
