"""The pieces that the towers share, in SigLIP's arithmetic: LayerNorm with eps 1e-6, GELU exact or by tanh."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from silc.config.fields import Gelu

NORM_EPS = 1e-6
# Numbers of a GELU's result held at a time on a CPU: 8 MiB of float32, still in the cache when they are multiplied.
CHUNK_ELEMENTS = 1 << 21
Approximate = Literal["none", "tanh"]  # torch's names


def layer_norm(width: int) -> nn.LayerNorm:
    """LayerNorm over the last dimension, eps as in SigLIP."""
    return nn.LayerNorm(width, eps=NORM_EPS)


def _saves_memory(x: Tensor) -> bool:
    """On a CPU memory bandwidth, fresh memory above all, costs more than recomputing what is cheap.

    A compiled block decides for itself; below fp32 the sum over chunks in a weight's gradient would lose digits.
    """
    return x.device.type == "cpu" and x.dtype.itemsize >= 4 and not torch.compiler.is_compiling()


class Recipe(NamedTuple):
    """How to make a LayerNorm's result again: its input and what it was scaled and shifted by.

    weight and bias are copies: under ZeRO-3 the parameters themselves may be away when the recipe is used.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor

    def __call__(self) -> Tensor:
        return F.layer_norm(self.x, self.weight.shape, self.weight, self.bias, NORM_EPS)


class RecipeNorm(nn.LayerNorm):
    """LayerNorm whose result carries a `Recipe`, for a `RecipeLinear` that comes right after it."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        if out.requires_grad and _saves_memory(x):
            recipe = Recipe(x.detach(), self.weight.detach().clone(), self.bias.detach().clone())
            out.recipe = recipe  # type: ignore[attr-defined]  # for RecipeLinear; a tensor takes any attribute
        return out


class RecipeLinear(nn.Linear):
    """Linear layer that keeps the recipe of its input for the backward pass, where there is one, not the input."""

    def forward(self, x: Tensor) -> Tensor:
        recipe = getattr(x, "recipe", None)
        if recipe is None:
            return super().forward(x)
        place = x.data_ptr()
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: recipe if tensor.data_ptr() == place else tensor,
            lambda kept: kept() if isinstance(kept, Recipe) else kept,
        ):
            return super().forward(x)


class PackedLinear(nn.Linear):
    """Linear layer over the rows of several tensors, packed: [T_i, D] each -> [sum T_i, D'], without packing them."""

    def forward(self, parts: Sequence[Tensor]) -> Tensor:  # type: ignore[override]  # nn.Linear takes them packed
        if len(parts) == 1 or not _saves_memory(parts[0]):
            return super().forward(parts[0] if len(parts) == 1 else torch.cat(list(parts)))
        return _PackedLinear.apply(self.weight, self.bias, *parts)


class _PackedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor, *parts: Tensor) -> Tensor:
        rows = [part.shape[0] for part in parts]
        out = parts[0].new_empty(sum(rows), weight.shape[0])
        for part, place in zip(parts, out.split(rows), strict=True):
            torch.addmm(bias, part, weight.t(), out=place)
        ctx.save_for_backward(weight, *parts)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        weight, *parts = ctx.saved_tensors
        d_weight, d_parts = torch.zeros_like(weight), []
        for part, rows in zip(parts, grad.split([part.shape[0] for part in parts]), strict=True):
            d_weight.addmm_(rows.t(), part)
            d_parts.append(rows @ weight)
        return d_weight, grad.sum(0), *d_parts


class GeluLinear(nn.Linear):
    """GELU, then the linear layer: [..., D] -> [..., D'].

    `gelu` is exact, x Phi(x), or tanh, the approximation of it in arXiv 1606.08415 that JAX's libraries take.

    On a CPU, in fp32 or more, the GELU's result exists for a few rows at a time, and once more in the backward pass:
    the widest tensor of a block is then kept once, not twice, and fresh memory costs more there than a GELU does.
    """

    def __init__(self, width: int, out_width: int, gelu: Gelu = "exact") -> None:
        super().__init__(width, out_width)
        self.approximate: Approximate = "tanh" if gelu == "tanh" else "none"

    def forward(self, x: Tensor) -> Tensor:
        if not _saves_memory(x):
            return super().forward(F.gelu(x, approximate=self.approximate))
        out = _GeluLinear.apply(self.approximate, x.flatten(0, -2), self.weight, self.bias)
        return out.view(*x.shape[:-1], -1)


class _GeluLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, approximate: Approximate, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        out = x.new_empty(x.shape[0], weight.shape[0])
        ctx.approximate = approximate
        for rows, activation in _activations(x, approximate):
            torch.addmm(bias, activation, weight.t(), out=out[rows])
        ctx.save_for_backward(x, weight)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor, Tensor]:
        (x, weight), approximate = ctx.saved_tensors, ctx.approximate
        d_x, d_weight = torch.empty_like(x), torch.zeros_like(weight)
        for rows, activation in _activations(x, approximate):
            d_weight.addmm_(grad[rows].t(), activation)
            d_activation = torch.mm(grad[rows], weight, out=activation)
            torch.ops.aten.gelu_backward.grad_input(
                d_activation, x[rows], approximate=approximate, grad_input=d_x[rows]
            )
        return None, d_x, d_weight, grad.sum(0)


def _activations(x: Tensor, approximate: Approximate) -> Iterator[tuple[slice, Tensor]]:
    """(which rows, their GELU) of x [T, D]. One buffer serves all: what is yielded is overwritten by the next."""
    step = max(1, CHUNK_ELEMENTS // x.shape[1])
    buffer = x.new_empty(min(step, x.shape[0]), x.shape[1])
    for start in range(0, x.shape[0], step):
        part = x[start : start + step]
        out = buffer[: part.shape[0]]
        yield slice(start, start + step), torch.ops.aten.gelu.out(part, approximate=approximate, out=out)


class Mlp(nn.Module):
    """fc1, GELU, fc2: [..., D] -> [..., D]."""

    def __init__(self, width: int, ratio: float, gelu: Gelu = "exact") -> None:
        super().__init__()
        hidden = int(width * ratio)
        self.fc1 = RecipeLinear(width, hidden)
        self.fc2 = GeluLinear(hidden, width, gelu)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x))
