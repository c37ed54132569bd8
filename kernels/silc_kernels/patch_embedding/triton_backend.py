"""patch_embed by Triton: buffers and launches. triton_kernels.py says what is computed, triton_plan.py in which sizes.

Nothing is read from the device or waited for, and all memory is torch's, so that a CUDA graph can hold both ways.
Launches go to the device of the tensors, whichever is current: a backward may run in any thread, on any GPU.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from triton.tools.tensor_descriptor import TensorDescriptor

from ..common import triton_runtime as runtime
from .triton_launch import launch_config, padded
from .triton_plan import BackwardPlan, ForwardPlan, Launch, Pixels, backward_plan, folding, forward_plan


def forward(
    crops: list[Tensor],
    weight: Tensor,
    bias: Tensor,
    positions: list[Tensor],
    prefix: Tensor | None,
    mean: list[float],
    std: list[float],
    out_dtype: torch.dtype,
) -> Tensor:
    """See `ops._module`. Products in `out_dtype`, sums in float32."""
    width, _, patch, _ = weight.shape
    before = 0 if prefix is None else prefix.shape[0]
    kept = out_dtype if out_dtype in runtime.DTYPES else torch.float32
    groups = tuple(map(Pixels.of, crops))
    scattered = any(pixels.scattered for pixels in groups)
    config = launch_config("project", weight.device, kept, patch, scattered=scattered)
    plan = forward_plan(config, kept, patch, width, before, groups)
    statistics = tuple(mean), tuple(std)
    packed = torch.empty(plan.rows, plan.pitch, dtype=runtime.product_dtype(kept), device=weight.device)
    folded: dict[bool, tuple[Tensor, Tensor]] = {}
    with torch.cuda.device_of(weight):
        for crop, table, out, launch in zip(
            crops, positions, packed.split_with_sizes(plan.counts), plan.project, strict=True
        ):
            if prefix is not None:
                shape = crop.shape[0], before, width
                out.as_strided(shape, (out.numel() // crop.shape[0], plan.pitch, 1)).copy_(prefix)
            raw = crop.dtype == torch.uint8
            if raw not in folded:
                folded[raw] = _fold(weight, bias, raw, statistics, plan, packed)
            if config.half_positions:
                table = table.to(packed.dtype)
            if plan.pitch != width:
                table = functional.pad(table, (0, plan.pitch - width))
            _project(launch, crop, *folded[raw], table.contiguous(), out, folding(raw, *statistics).scale, plan)
    return (packed if plan.pitch == width else packed[:, :width].contiguous()).to(out_dtype)


def _fold(
    weight: Tensor,
    bias: Tensor,
    raw: bool,
    statistics: tuple[tuple[float, ...], tuple[float, ...]],
    plan: ForwardPlan,
    packed: Tensor,
) -> tuple[Tensor, Tensor]:
    """-> folded weight [pitch, depth] in the dtype of `packed`, folded bias [pitch] in fp32."""
    folded = torch.empty(plan.pitch, plan.depth, dtype=packed.dtype, device=packed.device)
    folded_bias = torch.empty(plan.pitch, dtype=torch.float32, device=packed.device)
    _, relative, offset = folding(raw, *statistics)
    plan.fold.run(
        plan.fold.grid,
        weight.contiguous(),
        bias.contiguous(),
        folded,
        folded_bias,
        *plan.fold.sizes,
        *relative[1:],
        *offset,
    )
    return folded, folded_bias


def _project(
    launch: Launch,
    crop: Tensor,
    folded: Tensor,
    bias: Tensor,
    table: Tensor,
    out: Tensor,
    scale: float,
    plan: ForwardPlan,
) -> None:
    pixels, weight = crop, folded
    if launch.descriptor:
        pixels = TensorDescriptor(crop, *launch.descriptor)
        weight = TensorDescriptor(folded, [plan.pitch, plan.depth], [plan.depth, 1], plan.weight_block)
    launch.run(launch.grid, pixels, weight, bias, table, out, scale, *launch.sizes)


def backward(
    grad: Tensor,
    crops: list[Tensor],
    patch: int,
    tokens: list[int],
    before: int,
    mean: list[float],
    std: list[float],
    dtype: torch.dtype,
) -> list[Tensor]:
    """See `ops._module`. Products in grad's dtype, sums in float32."""
    grad = (grad if grad.dtype in runtime.DTYPES else grad.float()).contiguous()
    width, device = grad.shape[-1], grad.device
    groups, pitch = tuple(map(Pixels.of, crops)), padded(width)
    config = launch_config("gradient", device, grad.dtype, patch, floats=not all(pixels.raw for pixels in groups))
    wide = grad if pitch == width else functional.pad(grad, (0, pitch - width))
    bulk = wide.data_ptr() % 16 == 0
    plan = backward_plan(config, grad.dtype, runtime.multiprocessors(device), patch, width, before, groups, bulk)
    with torch.cuda.device_of(grad):
        parts = wide.split_with_sizes(plan.counts)
        partial = _partial(parts, crops, plan)
        d_positions, sums = _sums(parts if pitch == width else grad.split_with_sizes(plan.counts), crops, before, plan)
        d_weight, d_bias, d_prefix = (
            torch.empty(shape, dtype=torch.float32, device=device)
            for shape in ((width, 3, patch, patch), (width,), (before, width))
        )
        how = folding(True, tuple(mean), tuple(std))
        launch = plan.unfold
        launch.run(launch.grid, partial, sums, d_weight, d_bias, d_prefix, *launch.sizes, *how.gains, *how.offset)
    return [d_weight, d_bias, d_prefix, *d_positions]


def _partial(parts: Sequence[Tensor], crops: list[Tensor], plan: BackwardPlan) -> Tensor:
    """Sums over some of the rows each, [splits, depth, pitch], bytes' first. parts: gradients of each resolution."""
    partial = torch.empty(plan.partial, dtype=torch.float32, device=parts[0].device)
    for i, launch in zip(plan.order, plan.gradient, strict=True):
        pixels, part = crops[i], parts[i]
        if launch.descriptor:
            pixels = TensorDescriptor(pixels, *launch.descriptor)
            part = TensorDescriptor(part, [plan.counts[i], plan.pitch], [plan.pitch, 1], plan.grad_block)
        launch.run(launch.grid, pixels, part, partial, *launch.sizes)
    return partial


def _sums(parts: Sequence[Tensor], crops: list[Tensor], before: int, plan: BackwardPlan) -> tuple[list[Tensor], Tensor]:
    """Over the crops, in fp32: gradients of the positions of each resolution, and those one behind the other, bytes'
    first, then those of each resolution's prefix.
    """
    rows = [
        part.view(crop.shape[0], -1, part.shape[1]).sum(0, dtype=torch.float32)
        for part, crop in zip(parts, crops, strict=True)
    ]
    if not before:
        return rows, rows[0] if len(rows) == 1 else torch.cat([rows[i] for i in plan.order])
    pairs = [each.split_with_sizes((before, each.shape[0] - before)) for each in rows]
    found = [pairs[i][1] for i in plan.order] + [prefix for prefix, _ in pairs]
    return [positions for _, positions in pairs], torch.cat(found)
