"""distill_head_loss on Triton: what calls of the same shapes share, found once, and how tensors reach the kernels."""

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from triton.tools.tensor_descriptor import TensorDescriptor

from ..common.direct import cdiv
from ..common.launcher import Launcher, launcher
from ..common.triton_runtime import multiprocessors
from . import triton_bounded_kernels as bounded_kernels
from . import triton_head_gradient_kernels as gradient_kernels
from . import triton_head_kernels as kernels
from .triton_head_launch import (
    LEAST_WIDTH,
    LaunchConfig,
    Launches,
    attention,
    compute_dtype,
    headroom,
    launch_config,
    parts,
    power_of_two,
    side_by_side,
    splits,
)


class Features(NamedTuple):
    """What the kernels read: rows [., width], contiguous and 16-byte aligned, all of one dtype."""

    student: Tensor
    teacher: Tensor
    weight: Tensor
    teacher_weight: Tensor
    dtype: torch.dtype
    width: int

    @classmethod
    def of(cls, student: Tensor, teacher: Tensor, weight: Tensor, teacher_weight: Tensor) -> "Features":
        dtype, width = student.dtype, max(LEAST_WIDTH, power_of_two(student.shape[-1]))
        for other in (teacher, weight, teacher_weight):
            if other.dtype != dtype:
                dtype = torch.promote_types(dtype, other.dtype)
        return cls(
            _aligned(student, dtype, width),
            _aligned(teacher, dtype, width),
            _aligned(weight, dtype, width),
            _aligned(teacher_weight, dtype, width),
            dtype,
            width,
        )


class Form(NamedTuple):
    """One of the forms of attention: with these tiles, over this grid. bounded: the one without a running maximum."""

    launch: Launcher
    grid: tuple[int, int]
    config: LaunchConfig
    bounded: bool


class Plan(NamedTuple):
    """Of attention over all prototypes, by one form or both. partial: elements of the buffer of its splits."""

    forms: tuple[Form, ...]
    splits: int
    per_split: int
    partial: int
    bounded: bool


def attention_plan(who: str, given: Features, rows: int, prototypes: int) -> Plan:
    """who: "teacher" or "student"; rows: theirs."""
    device, launches = given.student.device, attention(who, given.dtype, given.student.device)
    # Tiles of the form that trained features take say how many programs there are.
    side = side_by_side(launches.usual, device)
    return _plan(who, launches, rows, given.width, prototypes, given.dtype, multiprocessors(device), side)


@functools.lru_cache(maxsize=1024)
def _plan(
    who: str,
    launches: Launches,
    rows: int,
    width: int,
    prototypes: int,
    dtype: torch.dtype,
    processors: int,
    side: int,
) -> Plan:
    blocks = cdiv(rows, launches.usual.rows)
    count, per_split = splits(blocks, rows * width, prototypes, launches.columns, processors, side)
    forms = []
    for config, kernel in ((launches.bounded, bounded_kernels.attend_bounded), (launches.online, kernels.attend)):
        if config is None:
            continue
        bounded = config is launches.bounded
        options: dict[str, Any] = {} if bounded else {"HEADROOM": headroom(dtype)}
        launch = launcher(
            kernel,
            CENTERED=who == "teacher",
            EVEN=prototypes % config.columns == 0,
            GROUP=launches.group,
            PARTS=parts(prototypes),
            WIDTH=width,
            ROWS=config.rows,
            COLUMNS=config.columns,
            OVERLAP=config.overlap,
            BULK=config.bulk,
            COMPUTE=compute_dtype(dtype),
            **options,
            num_warps=config.warps,
            num_stages=config.stages,
        )
        forms.append(Form(launch, (cdiv(rows, config.rows), count), config, bounded))
    return Plan(tuple(forms), count, per_split, count * rows * (width + 2), launches.bounded is not None)


class GradientPlan(NamedTuple):
    """Of the prototypes' gradient. grid: blocks of prototypes, parts of the sum over rows, of these lengths each."""

    launch: Launcher
    grid: tuple[int, int]
    config: LaunchConfig
    student_split: int
    teacher_split: int


def gradient_plan(given: Features, own: int, other: int, prototypes: int) -> GradientPlan:
    """own, other: rows of the students and of the teachers."""
    device, config = given.student.device, launch_config("weight_gradient", given.student.device)
    side = side_by_side(config, device)
    return _gradient_plan(config, own, other, given.width, prototypes, given.dtype, multiprocessors(device), side)


@functools.lru_cache(maxsize=1024)
def _gradient_plan(
    config: LaunchConfig,
    own: int,
    other: int,
    width: int,
    prototypes: int,
    dtype: torch.dtype,
    processors: int,
    side: int,
) -> GradientPlan:
    blocks = cdiv(prototypes, config.rows)
    length = own + other
    count, each = splits(blocks, prototypes * width, length, config.columns, processors, side)
    launch = launcher(
        gradient_kernels.weight_gradient,
        WIDTH=width,
        ROWS=config.rows,
        COLUMNS=config.columns,
        BULK=config.bulk,
        COMPUTE=compute_dtype(dtype),
        num_warps=config.warps,
        num_stages=config.stages,
    )
    # Of both kinds of rows the same part.
    of_each = (cdiv(rows * each, length * config.columns) * config.columns for rows in (own, other))
    return GradientPlan(launch, (blocks, count), config, *of_each)


def _aligned(tensor: Tensor, dtype: torch.dtype, width: int) -> Tensor:
    """[..., d] as rows [., width] for a tensor descriptor; a copy only where dtype, width or layout ask for it."""
    d = tensor.shape[-1]
    fits = tensor.dtype == dtype and d == width and tensor.data_ptr() % 16 == 0
    # A single row is contiguous at any stride.
    if fits and tensor.is_contiguous() and tensor.stride(-2) == d:
        return tensor
    flat = tensor.flatten(0, -2).to(dtype)
    if d < width:
        return functional.pad(flat, (0, width - d))
    flat = flat.contiguous()
    aligned = flat.data_ptr() % 16 == 0 and flat.stride(0) == d
    # A copy that preserves strides would keep those of a single row.
    return flat if aligned else flat.clone(memory_format=torch.contiguous_format)


def source(tensor: Tensor, rows: int, config: LaunchConfig) -> TensorDescriptor | Tensor:
    """tensor: of `Features`."""
    if not config.bulk:
        return tensor
    width = tensor.shape[-1]
    # A descriptor checks all it holds, in microseconds: what does not change with the tensor is checked once.
    descriptor = object.__new__(TensorDescriptor)
    descriptor.__dict__.update(_checked(tensor.dtype, tensor.numel() // width, width, rows))
    descriptor.base = tensor
    return descriptor


@functools.lru_cache(maxsize=1024)
def _checked(dtype: torch.dtype, size: int, width: int, rows: int) -> dict[str, Any]:
    return vars(TensorDescriptor(torch.empty(0, dtype=dtype), [size, width], [width, 1], [rows, width]))
