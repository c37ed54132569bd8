"""distill_head_loss on Triton: tiles, grids, buffers, and the operators that torch.compile and autograd see.

The loss and the features' gradient are found in the forward by attention over the prototypes; the prototypes' gradient
in the backward, from the log-sum-exps. Nothing of size rows x K exists, and only [rows] and [rows, d] are kept.
"""

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from triton.tools.tensor_descriptor import TensorDescriptor

from ..common.first_order import once
from ..common.launcher import launcher
from ..common.triton_runtime import exponent_scale, multiprocessors, product_dtype
from . import triton_bounded_kernels as bounded_kernels
from . import triton_head_gradient_kernels as gradient_kernels
from . import triton_head_kernels as kernels
from .host import below_autograd, cdiv, eager, operator, single
from .pairs import pair_matrix
from .triton_head_launch import (
    FINISHED,
    LEAST_WIDTH,
    REACH_BLOCK,
    LaunchConfig,
    Launches,
    attention,
    compute_dtype,
    headroom,
    launch_config,
    parts,
    power_of_two,
    splits,
)

REACH_ROWS = bounded_kernels.REACH_ROWS.value
LONGEST_TILE = 128  # prototypes; shift is filled up by whole ones, and one more


def distill_head_loss(
    student: Tensor,
    teacher: Tensor,
    student_weight: Tensor,
    teacher_weight: Tensor,
    center: Tensor,
    *,
    student_temp: float,
    teacher_temp: float,
    pair_weights: Tensor | None = None,
) -> Tensor:
    """`silc_kernels.distill_head_loss` on Triton; arguments are not checked.

    Four products of rows x K x d, two in the forward, two in the backward, in the dtype of the inputs, with float32
    sums; probabilities are rounded to that dtype for the second product. Logits are found again in the backward: the
    prototypes' gradient is off by a rounding of the logits over the temperature, but finite at any.

    In bfloat16 the attention takes no maximum where the lengths of the features and prototypes allow it (see
    triton_bounded_kernels.py), which is decided on the device.
    """
    function = functools.partial(_HeadLoss.apply, True) if eager(student) else _forward
    loss, _, _ = function(
        student,
        teacher.detach() if teacher.requires_grad else teacher,
        student_weight,
        teacher_weight.detach() if teacher_weight.requires_grad else teacher_weight,
        single(center),
        pair_matrix(pair_weights, student, teacher),
        student_temp,
        teacher_temp,
    )
    return loss


class _Features(NamedTuple):
    """What the kernels read: rows [., width], contiguous and 16-byte aligned, all of one dtype."""

    student: Tensor
    teacher: Tensor
    weight: Tensor
    teacher_weight: Tensor
    dtype: torch.dtype
    width: int

    @classmethod
    def of(cls, student: Tensor, teacher: Tensor, weight: Tensor, teacher_weight: Tensor) -> "_Features":
        dtype, width = student.dtype, _width(student.shape[-1])
        for other in (teacher, weight, teacher_weight):
            if other.dtype != dtype:
                dtype = torch.promote_types(dtype, other.dtype)
        x, h, w, w_t = (_aligned(each, dtype, width) for each in (student, teacher, weight, teacher_weight))
        return cls(x, h, w, w_t, dtype, width)


def _run(
    student: Tensor,
    teacher: Tensor,
    weight: Tensor,
    teacher_weight: Tensor,
    center: Tensor,
    pairs: Tensor,
    student_temp: float,
    teacher_temp: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """loss []; d loss / d student [S, N, d]; norms [2, (S + T) N], students first; all float32.

    A norm is a number that no logit of a row exceeds, its largest logit or close to its log-sum-exp, and log2 of its
    sum of exponentials over the temperature less that number.
    """
    (students, samples, _), (teachers, *_), prototypes = student.shape, teacher.shape, weight.shape[0]
    given = _Features.of(student, teacher, weight, teacher_weight)
    own, other, width = students * samples, teachers * samples, given.width
    first, second = (attention(who, given.dtype, student.device) for who in ("teacher", "student"))
    processors = multiprocessors(student.device)
    plans = tuple(
        _plan(launches, rows, width, prototypes, processors) for launches, rows in ((first, other), (second, own))
    )

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=student.device)

    # The students' partial sums take the place of the teachers', once these are merged.
    partial = empty(max(plan.partial for plan in plans))
    attended, norms, shares = empty(other, width), empty(2, own + other), empty(own)
    d_student = empty(*student.shape)
    finish = {"WIDTH": width, "BLOCK": FINISHED, "HEADROOM": headroom(given.dtype)}
    with torch.cuda.device_of(student):
        reached, shift = center, center
        if first.bounded or second.bounded:
            reached, shift = _reach(given, center, own, other, prototypes, exponent_scale(teacher_temp))
        context = center, shift, reached, partial, own, prototypes
        _attend(plans[0], given.teacher, given.teacher_weight, given.weight, context, exponent_scale(teacher_temp))
        launcher(kernels.finish_teacher, **finish)(
            (cdiv(other, FINISHED),),
            partial,
            attended,
            norms,
            other,
            own,
            plans[0].splits,
            exponent_scale(teacher_temp),
        )
        _attend(plans[1], given.student, given.weight, None, context, exponent_scale(student_temp))
        launcher(kernels.finish_student, **finish)(
            (cdiv(own, FINISHED),),
            partial,
            given.student,
            attended,
            pairs,
            d_student,
            norms,
            shares,
            own,
            samples,
            teachers,
            student.shape[2],
            plans[1].splits,
            exponent_scale(student_temp),
            1 / student_temp,
        )
    return shares.sum(), d_student, norms


class _Plan(NamedTuple):
    """Of attention over all prototypes. partial: elements of the buffer of its splits. parts: as in `reach`."""

    launches: Launches
    rows: int
    parts: int
    splits: int
    per_split: int
    partial: int


@functools.lru_cache(maxsize=1024)
def _plan(launches: Launches, rows: int, width: int, prototypes: int, processors: int) -> _Plan:
    # A multiprocessor has two programs of four warps at a time where they fit, but they share its time.
    blocks = cdiv(rows, max(config.rows for config in launches if config))
    count, per_split = splits(blocks, rows * width, prototypes, launches.columns, processors)
    return _Plan(launches, rows, parts(prototypes), count, per_split, count * rows * (width + 2))


def _reach(
    given: _Features, center: Tensor, own: int, other: int, prototypes: int, scale: float
) -> tuple[Tensor, Tensor]:
    """(how far logits reach, the center over the temperature), as `triton_bounded_kernels.reach` writes them."""
    blocks = cdiv(own, REACH_ROWS) + cdiv(other, REACH_ROWS)
    padded = (cdiv(prototypes, LONGEST_TILE) + 1) * LONGEST_TILE
    stretches = parts(prototypes)
    reached = torch.empty(3 * stretches + blocks, dtype=torch.float32, device=center.device)
    shift = torch.empty(padded, dtype=torch.float32, device=center.device)
    launcher(bounded_kernels.reach, PARTS=stretches, WIDTH=given.width, BLOCK=REACH_BLOCK)(
        (2 * stretches + blocks,), *given[:4], center, reached, shift, own, other, prototypes, padded, scale
    )
    return reached, shift


def _attend(
    plan: _Plan,
    queries: Tensor,
    keys: Tensor,
    values: Tensor | None,
    context: tuple[Tensor, Tensor, Tensor, Tensor, int, int],
    scale: float,
) -> None:
    """Both forms over all rows, to the buffer. values: None: the keys."""
    center, shift, reached, partial, own, prototypes = context
    (bounded, online), dtype = plan.launches, queries.dtype
    for config, kernel in ((bounded, bounded_kernels.attend_bounded), (online, kernels.attend)):
        if config is None:
            continue
        options: dict[str, Any] = {} if config is bounded else {"HEADROOM": headroom(dtype)}
        tiles = _source(keys, config.columns, config)
        launcher(
            kernel,
            CENTERED=values is not None,
            EVEN=prototypes % config.columns == 0,
            GROUP=plan.launches.group,
            PARTS=plan.parts,
            WIDTH=keys.shape[1],
            ROWS=config.rows,
            COLUMNS=config.columns,
            OVERLAP=config.overlap,
            BULK=config.bulk,
            COMPUTE=compute_dtype(dtype),
            **options,
            num_warps=config.warps,
            num_stages=config.stages,
        )(
            (cdiv(plan.rows, config.rows), plan.splits),
            _source(queries, config.rows, config),
            tiles,
            tiles if values is None else _source(values, config.columns, config),
            shift if config is bounded else center,
            reached,
            partial,
            plan.rows,
            own,
            prototypes,
            plan.per_split,
            scale,
        )


def _fake(student, teacher, weight, teacher_weight, center, pairs, student_temp, teacher_temp):
    count = (student.shape[0] + teacher.shape[0]) * student.shape[1]
    return center.new_empty(()), center.new_empty(student.shape), center.new_empty(2, count)


def _run_gradient(
    upstream: Tensor,
    student: Tensor,
    teacher: Tensor,
    weight: Tensor,
    teacher_weight: Tensor,
    center: Tensor,
    pairs: Tensor,
    norms: Tensor,
    student_temp: float,
    teacher_temp: float,
) -> Tensor:
    """d loss / d weight [K, d], summed in float32, in the weight's dtype."""
    (students, samples, d), teachers, prototypes = student.shape, teacher.shape[0], weight.shape[0]
    given = _Features.of(student, teacher, weight, teacher_weight)
    own, other = students * samples, teachers * samples
    config = launch_config("weight_gradient", student.device)
    blocks = cdiv(prototypes, config.rows)
    elements = prototypes * given.width
    count, _ = splits(blocks, elements, own + other, config.columns, multiprocessors(student.device))
    # Parts of a sum stay in float32.
    summed = product_dtype(weight.dtype) if count == 1 else torch.float32
    out = torch.empty((count, prototypes, d), dtype=summed, device=weight.device)
    # One more: the factor of the sums.
    adjusted = torch.empty(2 * (own + other) + 1, dtype=torch.float32, device=weight.device)
    pulled = torch.empty((other, given.width), dtype=product_dtype(given.dtype), device=weight.device)
    with torch.cuda.device_of(student):
        launcher(
            gradient_kernels.adjust,
            WIDTH=given.width,
            BLOCK=FINISHED,
            STUDENTS=power_of_two(students),
            TEACHERS=power_of_two(teachers),
            HEADROOM=headroom(given.dtype),
        )(
            (cdiv(samples, FINISHED),),
            given.student,
            pairs,
            norms,
            pulled,
            adjusted,
            samples,
            students,
            teachers,
            1 / student_temp,
        )
        launcher(
            gradient_kernels.weight_gradient,
            WIDTH=given.width,
            ROWS=config.rows,
            COLUMNS=config.columns,
            BULK=config.bulk,
            COMPUTE=compute_dtype(given.dtype),
            num_warps=config.warps,
            num_stages=config.stages,
        )(
            (blocks, count),
            *(_source(tensor, config.rows, config) for tensor in (given.weight, given.teacher_weight)),
            *(_source(tensor, config.columns, config) for tensor in (given.student, given.teacher, pulled)),
            center,
            adjusted,
            upstream,
            out,
            own,
            other,
            prototypes,
            d,
            *(cdiv(cdiv(rows, config.columns), count) * config.columns for rows in (own, other)),
            exponent_scale(student_temp),
            exponent_scale(teacher_temp),
        )
    return (out.sum(0) if count > 1 else out.view(prototypes, d)).to(weight.dtype)


def _fake_gradient(upstream, student, teacher, weight, *_):
    return weight.new_empty(weight.shape)


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, direct, *inputs):
        loss, d_student, norms = _run(*inputs) if direct else below_autograd(_forward, *inputs)
        *tensors, student_temp, teacher_temp = inputs
        ctx.mark_non_differentiable(d_student, norms)
        ctx.set_materialize_grads(False)  # of these two
        # The weights themselves, not copies: under ZeRO-3 a Parameter is empty between the forward and the gathering
        # for the backward, and its data elsewhere then. Nothing that is kept knows where it was.
        ctx.save_for_backward(*tensors, d_student, norms)
        ctx.temps = student_temp, teacher_temp
        return loss, d_student, norms

    @staticmethod
    def backward(ctx, upstream, *_):
        if upstream is None:
            return (None,) * 9
        *tensors, d_student, norms = ctx.saved_tensors
        causes = tensors[0], tensors[2], upstream
        features, prototypes = None, None
        with torch.no_grad():
            if ctx.needs_input_grad[1]:
                features = (d_student * upstream).to(tensors[0].dtype)
            if ctx.needs_input_grad[3]:
                find = _run_gradient if eager(upstream) and eager(tensors[2]) else _weight_gradient
                prototypes = find(upstream, *tensors, norms, *ctx.temps)
        features, prototypes = (
            None if found is None else once("distill_head_loss", found, *causes) for found in (features, prototypes)
        )
        return None, features, None, prototypes, None, None, None, None, None


_INPUTS = "Tensor student, Tensor teacher, Tensor weight, Tensor teacher_weight, Tensor center, Tensor pairs, "
_TEMPS = "float student_temp, float teacher_temp"
_forward = operator(
    f"distill_head_loss({_INPUTS}{_TEMPS}) -> (Tensor, Tensor, Tensor)",
    _run,
    _fake,
    gradient=functools.partial(_HeadLoss.apply, False),
)
_weight_gradient = operator(
    f"distill_head_weight_gradient(Tensor upstream, {_INPUTS}Tensor norms, {_TEMPS}) -> Tensor",
    _run_gradient,
    _fake_gradient,
)


def _width(d: int) -> int:
    return max(LEAST_WIDTH, power_of_two(d))


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


def _source(tensor: Tensor, rows: int, config: LaunchConfig) -> TensorDescriptor | Tensor:
    """tensor: of _aligned."""
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
