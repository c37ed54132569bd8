"""distill_head_loss on Triton: tiles, grids, buffers, and the operators that torch.compile and autograd see.

The loss and the features' gradient are found in the forward by attention over the prototypes; the prototypes' gradient
in the backward, from the log-sum-exps. Nothing of size rows x K exists, and only [rows] and [rows, d] are kept.
"""

import torch
import triton
from torch import Tensor
from torch.nn import functional
from triton.tools.tensor_descriptor import TensorDescriptor

from ..common.dispatch import without_autocast
from ..common.first_order import once
from ..common.triton_runtime import exponent_scale, multiprocessors, product_dtype
from . import triton_head_kernels as kernels
from .pairs import pair_matrix
from .triton_head_launch import LEAST_WIDTH, LaunchConfig, compute_dtype, headroom, launch_config, splits

FINISHED = 8  # rows


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
    """
    center = center.detach().float().contiguous()
    loss, _, _, _ = _forward(
        student,
        teacher.detach(),
        student_weight,
        teacher_weight.detach(),
        center,
        pair_matrix(pair_weights, student, teacher, center),
        student_temp,
        teacher_temp,
    )
    return loss


@torch.library.custom_op("silc_kernels::distill_head_loss", mutates_args=())
def _forward(
    student: Tensor,
    teacher: Tensor,
    weight: Tensor,
    teacher_weight: Tensor,
    center: Tensor,
    pairs: Tensor,
    student_temp: float,
    teacher_temp: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """loss []; d loss / d student [S, N, d]; norms [2, S, N] and [2, T, N]; all float32.

    A norm is a row's largest logit, and log2 of its sum of exponentials over the temperature less that logit.
    """
    (students, samples, d), teachers = student.shape, teacher.shape[0]
    dtype, width = _common(student, teacher, weight, teacher_weight), _width(d)
    x, h, w, w_t = (_aligned(tensor, dtype, width) for tensor in (student, teacher, weight, teacher_weight))

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=student.device)

    attended, teacher_norm = empty(teachers * samples, width), empty(2, teachers, samples)
    d_student, student_norm, shares = empty(students * samples, width), empty(2, students, samples), empty(x.shape[0])
    with torch.cuda.device_of(student):
        *partial, count = _attend(h, w_t, w, center, exponent_scale(teacher_temp), True)
        kernels.finish_teacher[(triton.cdiv(h.shape[0], FINISHED),)](
            *partial,
            attended,
            teacher_norm,
            h.shape[0],
            count,
            exponent_scale(teacher_temp),
            WIDTH=width,
            BLOCK=FINISHED,
            HEADROOM=headroom(dtype),
        )
        *partial, count = _attend(x, w, w, center, exponent_scale(student_temp), False)
        kernels.finish_student[(triton.cdiv(x.shape[0], FINISHED),)](
            *partial,
            x,
            attended,
            pairs,
            d_student,
            student_norm,
            shares,
            x.shape[0],
            samples,
            teachers,
            count,
            exponent_scale(student_temp),
            1 / student_temp,
            WIDTH=width,
            BLOCK=FINISHED,
            HEADROOM=headroom(dtype),
        )
    return shares.sum(), d_student[:, :d].reshape(student.shape).contiguous(), student_norm, teacher_norm


@_forward.register_fake
def _(student, teacher, weight, teacher_weight, center, pairs, student_temp, teacher_temp):
    return (
        center.new_empty(()),
        center.new_empty(student.shape),
        center.new_empty(2, *student.shape[:2]),
        center.new_empty(2, *teacher.shape[:2]),
    )


@torch.library.custom_op("silc_kernels::distill_head_weight_gradient", mutates_args=())
def _weight_gradient(
    upstream: Tensor,
    student: Tensor,
    teacher: Tensor,
    weight: Tensor,
    teacher_weight: Tensor,
    center: Tensor,
    pairs: Tensor,
    student_norm: Tensor,
    teacher_norm: Tensor,
    student_temp: float,
    teacher_temp: float,
) -> Tensor:
    """d loss / d weight [K, d], summed in float32, in the weight's dtype."""
    dtype, width = _common(student, teacher, weight, teacher_weight), _width(student.shape[-1])
    # What a row counts goes into its exponentials, as a part of the largest: no more than 1.
    mass = pairs.sum(1)
    largest = mass.max()
    own = torch.stack([student_norm[0], student_norm[1] - (mass / largest).log2()[:, None] - headroom(dtype)])
    others = torch.stack([teacher_norm[0], teacher_norm[1] - headroom(dtype)])
    with without_autocast(student.device):
        pulled = torch.einsum("st,snd->tnd", pairs / -largest, student.float())
    factor = upstream * largest * (2 ** -headroom(dtype) / student_temp)
    x, h, g, w, w_t = (_aligned(tensor, dtype, width) for tensor in (student, teacher, pulled, weight, teacher_weight))
    config = launch_config("weight_gradient", student.device)
    blocks, rows = triton.cdiv(w.shape[0], config.rows), x.shape[0] + h.shape[0]
    count, _ = splits(blocks, w.numel(), rows, config.columns, multiprocessors(student.device))
    # Parts of a sum stay in float32.
    summed = product_dtype(weight.dtype) if count == 1 else torch.float32
    out = torch.empty((count, w.shape[0], width), dtype=summed, device=weight.device)
    with torch.cuda.device_of(student):
        kernels.weight_gradient[(blocks, count)](
            *(_source(tensor, config.rows, config) for tensor in (w, w_t)),
            *(_source(tensor, config.columns, config) for tensor in (x, h, g)),
            center,
            own,
            others,
            factor,
            out,
            x.shape[0],
            h.shape[0],
            w.shape[0],
            *(triton.cdiv(triton.cdiv(part.shape[0], config.columns), count) * config.columns for part in (x, h)),
            exponent_scale(student_temp),
            exponent_scale(teacher_temp),
            WIDTH=width,
            ROWS=config.rows,
            COLUMNS=config.columns,
            BULK=config.bulk,
            COMPUTE=compute_dtype(dtype),
            num_warps=config.warps,
            num_stages=config.stages,
        )
    total = out.sum(0) if count > 1 else out[0]
    return total[:, : weight.shape[1]].to(weight.dtype).contiguous()


@_weight_gradient.register_fake
def _(upstream, student, teacher, weight, *_):
    return weight.new_empty(weight.shape)


def _keep(ctx, inputs, output) -> None:
    *tensors, student_temp, teacher_temp = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*tensors, *output[1:])
    ctx.temps = student_temp, teacher_temp


def _backward(ctx, upstream, *_):
    *tensors, d_student, student_norm, teacher_norm = ctx.saved_tensors
    causes = tensors[0], tensors[2], upstream
    features, prototypes = None, None
    with torch.no_grad():
        if ctx.needs_input_grad[0]:
            features = (d_student * upstream).to(tensors[0].dtype)
        if ctx.needs_input_grad[2]:
            prototypes = _weight_gradient(upstream, *tensors, student_norm, teacher_norm, *ctx.temps)
    features, prototypes = (
        None if found is None else once("distill_head_loss", found, *causes) for found in (features, prototypes)
    )
    return features, None, prototypes, None, None, None, None, None


_forward.register_autograd(_backward, setup_context=_keep)


def _attend(
    queries: Tensor, keys: Tensor, values: Tensor, center: Tensor, scale: float, centered: bool
) -> tuple[Tensor, Tensor, Tensor, int]:
    """(peaks, totals [splits, rows], sums [splits, rows, width], splits) of queries [rows, width], keys [K, width]."""
    (rows, width), prototypes = queries.shape, keys.shape[0]
    config: LaunchConfig = launch_config("attend teacher" if centered else "attend student", queries.device)
    blocks = triton.cdiv(rows, config.rows)
    count, per_split = splits(blocks, rows * width, prototypes, config.columns, multiprocessors(queries.device))
    peaks, totals = torch.empty((2, count, rows), dtype=torch.float32, device=queries.device)
    sums = torch.empty((count, rows, width), dtype=torch.float32, device=queries.device)
    kernels.attend[(blocks, count)](
        _source(queries, config.rows, config),
        _source(keys, config.columns, config),
        _source(values, config.columns, config),
        center,
        peaks,
        totals,
        sums,
        rows,
        prototypes,
        per_split,
        scale,
        CENTERED=centered,
        EVEN=prototypes % config.columns == 0,
        WIDTH=width,
        ROWS=config.rows,
        COLUMNS=config.columns,
        OVERLAP=config.overlap,
        BULK=config.bulk,
        COMPUTE=compute_dtype(queries.dtype),
        HEADROOM=headroom(queries.dtype),
        num_warps=config.warps,
        num_stages=config.stages,
    )
    return peaks, totals, sums, count


def _common(*tensors: Tensor) -> torch.dtype:
    """One dtype that holds all."""
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def _width(d: int) -> int:
    return max(LEAST_WIDTH, triton.next_power_of_2(d))


def _aligned(tensor: Tensor, dtype: torch.dtype, width: int) -> Tensor:
    """[..., d] as the [rows, width] a tensor descriptor takes; a copy only where dtype, width or layout ask for it."""
    flat = tensor.flatten(0, -2).to(dtype)
    if flat.shape[1] < width:
        return functional.pad(flat, (0, width - flat.shape[1]))
    flat = flat.contiguous()
    # A single row is contiguous at any stride, and a copy that preserves strides would keep it.
    aligned = flat.data_ptr() % 16 == 0 and flat.stride(0) == flat.shape[1]
    return flat if aligned else flat.clone(memory_format=torch.contiguous_format)


def _source(tensor: Tensor, rows: int, config: LaunchConfig) -> TensorDescriptor | Tensor:
    return TensorDescriptor.from_tensor(tensor, [rows, tensor.shape[1]]) if config.bulk else tensor
