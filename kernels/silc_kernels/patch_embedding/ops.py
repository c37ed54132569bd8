"""Multi-crop patch embedding: byte crops of several resolutions -> one packed token sequence."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..common import dispatch
from ..common.checks import FLOATS, check_float, check_savable, check_shape, check_statistics


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

    mean and std are folded into weight and bias, with the bytes centred by 128:

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
    """
    op = "patch_embed"
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
