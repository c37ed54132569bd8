"""distill_head_loss on Triton: tiles, grids, buffers, and the operators that torch.compile and autograd see.

The loss and the features' gradient are found in the forward by attention over the prototypes; the prototypes' gradient
in the backward, from the log-sum-exps. Nothing of size rows x K exists, and only [rows] and [rows, d] are kept.
"""

import functools

import torch
from torch import Tensor

from ..common.direct import cdiv, eager
from ..common.first_order import once
from ..common.launcher import launcher
from ..common.triton_runtime import exponent_scale, product_dtype
from . import triton_bounded_kernels as bounded_kernels
from . import triton_head_gradient_kernels as gradient_kernels
from . import triton_head_kernels as kernels
from .host import below_autograd, operator, single
from .pairs import pair_matrix
from .triton_head_launch import FINISHED, REACH_BLOCK, headroom, parts, power_of_two
from .triton_head_plan import Features, Plan, attention_plan, gradient_plan, source

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
    function = functools.partial(_HeadLoss.apply, True) if eager((student,)) else _forward
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
    given = Features.of(student, teacher, weight, teacher_weight)
    own, other, width = students * samples, teachers * samples, given.width
    first = attention_plan("teacher", given, other, prototypes)
    second = attention_plan("student", given, own, prototypes)

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=student.device)

    # The students' partial sums take the place of the teachers', once these are merged.
    partial = empty(max(first.partial, second.partial))
    attended, norms, shares = empty(other, width), empty(2, own + other), empty(own)
    d_student = empty(*student.shape)
    teacher_scale, student_scale = exponent_scale(teacher_temp), exponent_scale(student_temp)
    finish = {"WIDTH": width, "BLOCK": FINISHED, "HEADROOM": headroom(given.dtype)}
    with torch.cuda.device_of(student):
        reached, shift = center, center
        if first.bounded or second.bounded:
            reached, shift = _reach(given, center, own, other, prototypes, teacher_scale)
        context = center, shift, reached, partial, own, prototypes
        _attend(first, given.teacher, given.teacher_weight, given.weight, context, teacher_scale)
        launcher(kernels.finish_teacher, **finish)(
            (cdiv(other, FINISHED),),
            partial,
            attended,
            norms,
            other,
            own,
            first.splits,
            teacher_scale,
        )
        _attend(second, given.student, given.weight, None, context, student_scale)
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
            second.splits,
            student_scale,
            1 / student_temp,
        )
    return shares.sum(), d_student, norms


def _reach(
    given: Features, center: Tensor, own: int, other: int, prototypes: int, scale: float
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
    plan: Plan,
    queries: Tensor,
    keys: Tensor,
    values: Tensor | None,
    context: tuple[Tensor, Tensor, Tensor, Tensor, int, int],
    scale: float,
) -> None:
    """All forms over all rows, to the buffer. values: None: the keys."""
    center, shift, reached, partial, own, prototypes = context
    rows = queries.numel() // queries.shape[-1]
    for launch, grid, config, bounded in plan.forms:
        tiles = source(keys, config.columns, config)
        launch(
            grid,
            source(queries, config.rows, config),
            tiles,
            tiles if values is None else source(values, config.columns, config),
            shift if bounded else center,
            reached,
            partial,
            rows,
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
    given = Features.of(student, teacher, weight, teacher_weight)
    own, other = students * samples, teachers * samples
    plan = gradient_plan(given, own, other, prototypes)
    config, count = plan.config, plan.grid[1]
    # Parts of a sum stay in float32.
    summed = product_dtype(weight.dtype) if count == 1 else torch.float32
    out = torch.empty((count, prototypes, d) if count > 1 else (prototypes, d), dtype=summed, device=weight.device)
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
        plan.launch(
            plan.grid,
            source(given.weight, config.rows, config),
            source(given.teacher_weight, config.rows, config),
            source(given.student, config.columns, config),
            source(given.teacher, config.columns, config),
            source(pulled, config.columns, config),
            center,
            adjusted,
            upstream,
            out,
            own,
            other,
            prototypes,
            d,
            plan.student_split,
            plan.teacher_split,
            exponent_scale(student_temp),
            exponent_scale(teacher_temp),
        )
    summed_up = out.sum(0) if count > 1 else out
    return summed_up if summed_up.dtype == weight.dtype else summed_up.to(weight.dtype)


def _fake_gradient(upstream, student, teacher, weight, *_):
    return weight.new_empty(weight.shape)


def _gradients(ctx, upstream, *inputs):
    """Of the students' features and of the weight, where they are wanted."""
    *tensors, d_student, norms = inputs
    student, direct = tensors[0], eager((upstream, tensors[2]))
    features, prototypes = None, None
    if ctx.needs_input_grad[1] and direct:
        features = torch.mul(d_student, upstream, out=torch.empty_like(d_student, dtype=student.dtype))
    elif ctx.needs_input_grad[1]:
        features = (d_student * upstream).to(student.dtype)
    if ctx.needs_input_grad[3]:
        find = _run_gradient if direct else _weight_gradient
        prototypes = find(upstream, *tensors, norms, *ctx.temps)
    return features, prototypes


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
        inputs = ctx.saved_tensors
        if torch.is_grad_enabled():
            with torch.no_grad():
                features, prototypes = _gradients(ctx, upstream, *inputs)
            causes = inputs[0], inputs[2], upstream
            features, prototypes = (
                None if found is None else once("distill_head_loss", found, *causes) for found in (features, prototypes)
            )
        else:
            features, prototypes = _gradients(ctx, upstream, *inputs)
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
