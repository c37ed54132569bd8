"""Argument checks shared by the public ops: each a ValueError that names the value and the way out."""

import math
import weakref
from collections.abc import Sequence

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check_float(op: str, **tensors: Tensor) -> None:
    """Floating point, and all on one device."""
    device, first = None, ""
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{op}: {name} is {tensor!r}; give a tensor of float32, bfloat16, float16 or float64")
        if tensor.dtype not in FLOATS:
            raise ValueError(f"{op}: {name} has dtype {tensor.dtype}; give float32, bfloat16, float16 or float64")
        if device is None:
            device, first = tensor.device, name
        elif tensor.device != device:
            raise ValueError(f"{op}: {name} is on {tensor.device}, {first} on {device}; move them to one device")


def check_savable(op: str, trained: Sequence[Tensor], **tensors: Tensor) -> None:
    """No inference tensors where one of `trained` wants a gradient: the backward would find them changed unseen.

    Compiled code: left to the compiler, which traces no inference tensors into a graph with gradients.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled() or not any(leaf.requires_grad for leaf in trained):
        return
    for name, tensor in tensors.items():
        if tensor.is_inference():
            raise ValueError(
                f"{op}: {name} was made under torch.inference_mode, which autograd cannot keep for the backward; "
                f"make it under torch.no_grad(), or give {name}.clone()"
            )


def check_shape(op: str, name: str, tensor: Tensor, expected: tuple[int | None, ...], meaning: str) -> None:
    """Shape against `expected` (None: any size >= 1); `meaning` spells it out, such as "[S, N, d]"."""
    shape = tensor.shape
    fits = len(shape) == len(expected)
    if fits:  # a loop: `all` of a generator takes twice as long, in every call of every op
        for size, want in zip(shape, expected, strict=True):
            if size < 1 if want is None else size != want:
                fits = False
                break
    if not fits:
        wanted = ", ".join("any" if want is None else str(want) for want in expected)
        raise ValueError(f"{op}: {name} has shape {list(tensor.shape)}; it must be {meaning} = [{wanted}]")


def check_temperature(op: str, name: str, value: float) -> None:
    try:
        fits = 0 < value < math.inf  # not isfinite: compiled code holds a temperature that changes as a symbol
    except TypeError:  # no number
        fits = False
    if not fits:
        raise ValueError(
            f"{op}: {name} is {value!r}; a temperature must be a number, finite and above 0 (DINO: 0.1 and 0.04)"
        )


def check_statistics(op: str, mean: Sequence[float], std: Sequence[float]) -> None:
    """Three finite numbers each, std above 0."""
    try:
        fits = len(mean) == len(std) == 3
        fits = fits and all(-math.inf < m < math.inf for m in mean) and all(0 < s < math.inf for s in std)
    except TypeError:  # no sequences, or not of numbers
        fits = False
    if not fits:
        raise ValueError(
            f"{op}: mean {mean!r} and std {std!r} must be 3 numbers each, finite, std above 0; "
            "give one for each channel, such as (0.5, 0.5, 0.5)"
        )


def check_grid(op: str, name: str, grid: tuple[int, int]) -> None:
    if not isinstance(grid, Sequence) or len(grid) != 2 or min(grid) < 1:
        raise ValueError(f"{op}: {name} is {grid!r}; it must be (rows, columns), each at least 1")


def check_pair_weights(op: str, weights: Tensor | None, students: int, teachers: int) -> None:
    """[S, T], not negative, not all zero.

    Reads the values: on the CPU at every call; on a GPU, where reading waits for it, once for a tensor and again when
    it has changed in place. Not read: in compiled code, while a CUDA graph is captured, and what changes unseen by
    torch, as through `.data`. There, weights that are none must make the loss NaN.
    """
    if weights is None:
        return
    if not isinstance(weights, Tensor) or weights.is_complex():
        raise ValueError(f"{op}: pair_weights is {weights!r}; give a real tensor, torch.tensor([...]), or None")
    check_shape(op, "pair_weights", weights, (students, teachers), "[S, T]")
    if torch.compiler.is_compiling():
        return  # a graph has no values to look at
    if not _on_host(weights) and (_read_before(weights) or _capturing()):
        return
    values = weights.tolist()
    flat = [value for row in values for value in row]
    if not all(math.isfinite(value) and value >= 0 for value in flat) or max(flat) == 0:
        raise ValueError(
            f"{op}: pair_weights {values} must be finite, not negative and not all zero; "
            "give at least one pair a positive weight, or leave the loss out"
        )
    if not _on_host(weights):
        _note_read(weights)


# Of tensors on a GPU: their ids -> (the tensor, its version when its values were read).
_READ: dict[int, tuple["weakref.ref[Tensor]", int]] = {}


def _on_host(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def _capturing() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def _read_before(tensor: Tensor) -> bool:
    found = _READ.get(id(tensor))
    return found is not None and found[0]() is tensor and found[1] == tensor._version


def _note_read(tensor: Tensor) -> None:
    if not tensor.is_inference():  # these count no versions
        key = id(tensor)
        _READ[key] = weakref.ref(tensor, lambda _: _READ.pop(key, None)), tensor._version
