"""Multi-crop patch embedding: byte crops of several resolutions -> one packed token sequence.

The face checks its arguments; below it, one operator for each backend, with a schema, shapes and autograd formula that
all share. The operator keeps the crops (bytes) and nothing else: no gradient needs the weight, so that a sharded
parameter may be gone by the time of backward.
"""

import functools
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..common import dispatch
from ..common.checks import FLOATS, check_float, check_savable, check_shape, check_statistics
from ..common.first_order import once
from . import torch_backend
from .direct import unwatched

OP = "patch_embed"
LIBRARY = torch.library.Library("silc_kernels", "FRAGMENT")
# Plain torch copies mean and std from the host.
TAGS = {
    "torch": (torch.Tag.pt2_compliant_tag, torch.Tag.cudagraph_unsafe),
    "triton": (torch.Tag.pt2_compliant_tag,),
}
FORWARD = (
    "(Tensor[] crops, Tensor weight, Tensor bias, Tensor[] positions, Tensor? prefix, float[] mean, float[] std, "
    "ScalarType out_dtype) -> Tensor"
)
BACKWARD = (
    "(Tensor grad, Tensor[] crops, SymInt patch, SymInt[] tokens, SymInt before, float[] mean, float[] std, "
    "ScalarType dtype) -> Tensor[]"
)


def patch_embed(
    crops: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor,
    positions: Sequence[Tensor],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    prefix: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> Tensor:
    """Normalise, cut into patches, project, add bias and position, and pack, in one go.

    mean and std are folded into weight and bias, with the bytes centered by 128:

        W' = W / (255 std_c),  b' = b + sum W (128 / 255 - mean_c) / std_c,  token = W' (byte - 128) + b' + position

    Args:
        crops: one [M_i, 3, H_i, W_i] tensor a resolution: uint8 (any strides; contiguous or channels_last are fast), or
            floating point, already normalised (mean and std are then not applied). Pixels get no gradient.
        weight: [D, 3, p, p], as a convolution's of stride p (timm's layout). Gets a gradient.
        bias: [D]. Gets a gradient.
        positions: one [tokens_i, D] a resolution, tokens_i = (H_i / p) (W_i / p), row by row. Get gradients.
        mean, std: three numbers each, of pixels in [0, 1].
        prefix: [P, D] tokens put before every crop's (no position is added to them), or None. Gets a gradient.
        out_dtype: of the result; None: the weight's.
        backend: "auto", or a name from `dispatch.report`.

    Returns:
        packed [sum_i M_i (P + tokens_i), D]; `PackedLayout` of (M_i, P + tokens_i) finds each crop in it.

    Raises:
        ValueError: a crop whose sides the patch does not divide, or a wrong shape, dtype or device; with the reason.

    A CUDA graph can hold forward and backward on the Triton backend, not on plain torch's.
    """
    op = OP
    parameters = {"weight": weight, "bias": bias} | ({} if prefix is None else {"prefix": prefix})
    if len(crops) == 0 or len(crops) != len(positions):
        raise ValueError(
            f"{op}: {len(crops)} crop tensors and {len(positions)} position tables; give one table a resolution"
        )
    if bias is None:
        raise ValueError(f"{op}: bias is None; for a projection without one give zeros, weight.new_zeros(len(weight))")
    check_float(op, **parameters, **{f"positions[{i}]": table for i, table in enumerate(positions)})
    check_shape(op, "weight", weight, (None, 3, None, None), "[D, 3, p, p]")
    width, _, patch, patch_across = weight.shape
    if patch != patch_across:
        raise ValueError(f"{op}: weight has patches of {patch} x {patch_across} pixels; only square ones are supported")
    check_shape(op, "bias", bias, (width,), "[D]")
    if prefix is not None:
        check_shape(op, "prefix", prefix, (None, width), "[P, D]")
    check_statistics(op, mean, std)
    if out_dtype is not None and out_dtype not in FLOATS:
        raise ValueError(f"{op}: out_dtype is {out_dtype}; choose float32, bfloat16, float16 or float64")
    for i, (crop, table) in enumerate(zip(crops, positions, strict=True)):
        _check_crop(op, i, crop, table, weight)
    trained = (*parameters.values(), *positions)
    if torch.compiler.is_compiling() or any(crop.is_inference() for crop in crops):  # names take time
        check_savable(op, trained, **{f"crops[{i}]": crop for i, crop in enumerate(crops)})
    return dispatch.run(
        op,
        (*trained, *crops),
        backend,
        crops,
        weight,
        bias,
        positions,
        mean=tuple(mean),
        std=tuple(std),
        prefix=prefix,
        out_dtype=out_dtype,
    )


def _check_crop(op: str, i: int, crop: Tensor, table: Tensor, weight: Tensor) -> None:
    width, _, patch, _ = weight.shape
    if not isinstance(crop, Tensor):
        raise ValueError(f"{op}: crops[{i}] is {crop!r}; give a tensor of uint8 pixels, or normalised floats")
    if crop.dtype != torch.uint8 and crop.dtype not in FLOATS:
        raise ValueError(f"{op}: crops[{i}] has dtype {crop.dtype}; give uint8 pixels, or normalised floats")
    if crop.device != weight.device:
        raise ValueError(f"{op}: crops[{i}] is on {crop.device}, weight on {weight.device}; move them to one device")
    if crop.requires_grad:
        raise ValueError(f"{op}: crops[{i}] requires a gradient, but pixels get none; pass crops[{i}].detach()")
    rows, columns = patch_grid(op, i, crop, patch)
    check_shape(op, f"positions[{i}]", table, (rows * columns, width), "[tokens, D]")


def patch_grid(op: str, i: int, crop: Tensor, patch: int) -> tuple[int, int]:
    """(rows, columns) of patches in the crops [M, 3, H, W] of resolution `i`.

    Raises:
        ValueError: another shape, or sides that the patch does not divide.
    """
    check_shape(op, f"crops[{i}]", crop, (None, 3, None, None), "[M, 3, H, W], channels first")
    height, across = crop.shape[-2:]
    if height % patch or across % patch:
        raise ValueError(
            f"{op}: crops[{i}] is {height} x {across} pixels, which patches of {patch} do not divide; "
            f"resize it, for instance to {max(height // patch, 1) * patch} x {max(across // patch, 1) * patch}"
        )
    return height // patch, across // patch


@functools.cache  # an import takes a microsecond, even of what is there
def _module(backend: str) -> ModuleType:
    """What implements a backend, in two functions.

    forward: (crops, weight, bias, positions, prefix, mean, std, out_dtype) -> packed.
    backward: (grad, crops, patch size, tokens of each resolution, prefix tokens, mean, std, dtype to add up in) ->
    gradients of [weight, bias, prefix ([0, D] without one), *positions] in that dtype, none a view of another's memory.
    """
    if backend == "triton":
        from . import triton_backend  # when a call first wants it: the face costs no import of triton

        return triton_backend
    return torch_backend


def _operator(backend: str) -> Callable[..., Tensor]:
    """The operators silc_kernels::patch_embed_`backend` and ..._backward, and the function that calls them.

    Defined below `torch.library.custom_op`, whose wrappers take some 60 us of a call of many tensors.
    """
    name = f"{OP}_{backend}"

    def forward(*args: Any) -> Tensor:
        return _module(backend).forward(*args)

    def backward(*args: Any) -> list[Tensor]:
        found = _module(backend).backward(*args)
        return [each.clone() if each.storage_offset() else each for each in found]  # where `_gradients` says they lie

    def below(*args: Any) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            return operators[0](*args)

    def differentiable(
        crops: list[Tensor],
        weight: Tensor,
        bias: Tensor,
        positions: list[Tensor],
        prefix: Tensor | None,
        mean: list[float],
        std: list[float],
        out_dtype: torch.dtype,
    ) -> Tensor:
        trained = (weight, bias, prefix, *positions)
        run = forward if unwatched((*trained, *crops)) else below
        if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in trained):
            return _Embed.apply(run, backend, operators[1], crops, mean, std, out_dtype, *trained)
        return run(crops, weight, bias, positions, prefix, mean, std, out_dtype)

    for schema, function, shapes in (
        (name + FORWARD, forward, _packed),
        (f"{name}_backward{BACKWARD}", backward, _gradients),
    ):
        LIBRARY.define(schema, tags=TAGS[backend])
        qualified = schema.split("(")[0]
        LIBRARY.impl(qualified, function, "CompositeExplicitAutograd")
        torch.library.register_fake(f"silc_kernels::{qualified}", shapes, lib=LIBRARY)
    LIBRARY.impl(name, differentiable, "Autograd")
    operators = tuple(getattr(torch.ops.silc_kernels, each).default for each in (name, f"{name}_backward"))

    def embed(
        crops: Sequence[Tensor],
        weight: Tensor,
        bias: Tensor,
        positions: Sequence[Tensor],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        prefix: Tensor | None = None,
        out_dtype: torch.dtype | None = None,
    ) -> Tensor:
        dtype = weight.dtype if out_dtype is None else out_dtype
        run = differentiable if unwatched((weight, bias, prefix, *positions, *crops)) else operators[0]
        return run(list(crops), weight, bias, list(positions), prefix, list(mean), list(std), dtype)

    return embed


class _Embed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, run, backend, gradient, crops, mean, std, out_dtype, weight, bias, prefix, *positions):
        ctx.save_for_backward(*crops)
        ctx.gradient, ctx.backend = gradient, backend
        ctx.patch, ctx.tokens = weight.shape[-1], [table.shape[0] for table in positions]
        ctx.before = 0 if prefix is None else prefix.shape[0]
        ctx.mean, ctx.std = mean, std
        ctx.dtypes = [None if x is None else x.dtype for x in (weight, bias, prefix, *positions)]
        return run(crops, weight, bias, list(positions), prefix, mean, std, out_dtype)

    @staticmethod
    def backward(ctx, grad):
        crops = list(ctx.saved_tensors)
        wide = torch.promote_types(ctx.dtypes[0], torch.float32)
        # A graph of the gradient is recorded through the operator, which has no gradient.
        direct = not torch.is_grad_enabled() and unwatched((grad,))
        arguments = grad, crops, ctx.patch, ctx.tokens, ctx.before, ctx.mean, ctx.std, wide
        if direct:
            found = _module(ctx.backend).backward(*arguments)
        else:
            with torch._C._AutoDispatchBelowAutograd():
                found = ctx.gradient(*arguments)
        gradients = [
            None if dtype is None else once(OP, d if d.dtype == dtype else d.to(dtype), grad)
            for d, dtype in zip(found, ctx.dtypes, strict=True)
        ]
        return None, None, None, None, None, None, None, *gradients


def _packed(crops, weight, bias, positions, prefix, mean, std, out_dtype):
    before = 0 if prefix is None else prefix.shape[0]
    rows = sum(crop.shape[0] * (before + table.shape[0]) for crop, table in zip(crops, positions, strict=True))
    return weight.new_empty((rows, weight.shape[0]), dtype=out_dtype)


def _gradients(grad, crops, patch, tokens, before, mean, std, dtype):
    width = grad.shape[-1]
    shapes = [(width, 3, patch, patch), (width,), (before, width), *((count, width) for count in tokens)]
    return [grad.new_empty(shape, dtype=dtype) for shape in shapes]


dispatch.register(OP, "torch", _operator("torch"))
dispatch.register(OP, "triton", _operator("triton"), dispatch.triton_takes(OP))
