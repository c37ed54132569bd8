"""patch_embed as a torch operator: one schema, shapes and autograd formula for any implementation.

The operator keeps the crops (bytes) and nothing else: no gradient needs the weight, so that a sharded parameter may be
gone by the time of backward.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

FORWARD = (
    "(Tensor[] crops, Tensor weight, Tensor bias, Tensor[] positions, Tensor? prefix, float[] mean, float[] std, "
    "ScalarType out_dtype) -> Tensor"
)
BACKWARD = (
    "(Tensor grad, Tensor[] crops, SymInt patch, SymInt[] tokens, SymInt before, float[] mean, float[] std, "
    "ScalarType dtype) -> Tensor[]"
)


def define(name: str, forward: Callable[..., Tensor], backward: Callable[..., list[Tensor]]) -> Callable[..., Tensor]:
    """Register the operators `silc_kernels::<name>` and `<name>_backward`.

    Args:
        name: of the operator.
        forward: (crops, weight, bias, positions, prefix, mean, std, out_dtype) -> packed.
        backward: (grad, crops, patch size, tokens of each resolution, prefix tokens, mean, std, dtype to add up in) ->
            gradients of [weight, bias, prefix ([0, D] without one), *positions] in that dtype.

    Returns:
        a function with the signature of `reference.patch_embed`.
    """
    operator = torch.library.custom_op(f"silc_kernels::{name}", forward, mutates_args=(), schema=FORWARD)
    gradient = torch.library.custom_op(f"silc_kernels::{name}_backward", backward, mutates_args=(), schema=BACKWARD)
    operator.register_fake(_packed)
    gradient.register_fake(_gradients)

    def differentiate(ctx: Any, grad: Tensor) -> tuple:
        crops = list(ctx.saved_tensors)
        found = gradient(grad, crops, ctx.patch, ctx.tokens, ctx.before, ctx.mean, ctx.std, ctx.wide)
        found = [None if dtype is None else d.to(dtype) for d, dtype in zip(found, ctx.dtypes, strict=True)]
        weight, bias, prefix, *positions = found
        return [None] * len(crops), weight, bias, positions, prefix, None, None, None

    operator.register_autograd(differentiate, setup_context=_keep)

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
    ) -> Tensor:
        dtype = weight.dtype if out_dtype is None else out_dtype
        return operator(list(crops), weight, bias, list(positions), prefix, list(mean), list(std), dtype)

    return patch_embed


def _keep(ctx: Any, inputs: tuple, output: Tensor) -> None:
    crops, weight, bias, positions, prefix, mean, std, _ = inputs
    ctx.save_for_backward(*crops)
    ctx.patch, ctx.tokens = weight.shape[-1], [table.shape[0] for table in positions]
    ctx.before = 0 if prefix is None else prefix.shape[0]
    ctx.mean, ctx.std = mean, std
    ctx.wide = torch.promote_types(weight.dtype, torch.float32)
    ctx.dtypes = [None if x is None else x.dtype for x in (weight, bias, prefix, *positions)]


def _packed(crops, weight, bias, positions, prefix, mean, std, out_dtype):
    before = 0 if prefix is None else prefix.shape[0]
    rows = sum(crop.shape[0] * (before + table.shape[0]) for crop, table in zip(crops, positions, strict=True))
    return weight.new_empty((rows, weight.shape[0]), dtype=out_dtype)


def _gradients(grad, crops, patch, tokens, before, mean, std, dtype):
    width = grad.shape[-1]
    shapes = [(width, 3, patch, patch), (width,), (before, width), *((count, width) for count in tokens)]
    return [grad.new_empty(shape, dtype=dtype) for shape in shapes]
