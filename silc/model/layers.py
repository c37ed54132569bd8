"""The pieces both image modules share, in SigLIP's arithmetic: LayerNorm with eps 1e-6 and exact GELU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

NORM_EPS = 1e-6
# Numbers of a GELU's result held at a time on a CPU: 8 MiB of float32, still in the cache when they are multiplied.
CHUNK_ELEMENTS = 1 << 21


def layer_norm(width: int) -> nn.LayerNorm:
    """LayerNorm over the last dimension, eps as in SigLIP."""
    return nn.LayerNorm(width, eps=NORM_EPS)


class GeluLinear(nn.Linear):
    """Exact GELU, then the linear layer: [..., D] -> [..., D'].

    On a CPU, in fp32 or more, the GELU's result exists for a few rows at a time, and once more in the backward pass:
    the widest tensor of a block is then kept once, not twice, and fresh memory costs more there than a GELU does.
    """

    def forward(self, x: Tensor) -> Tensor:
        # A compiled block fuses for itself; below fp32 the sum over chunks in the weight's gradient would lose digits.
        if x.device.type != "cpu" or x.dtype.itemsize < 4 or torch.compiler.is_compiling():
            return super().forward(F.gelu(x))
        return _GeluLinear.apply(x.flatten(0, -2), self.weight, self.bias).view(*x.shape[:-1], -1)


class _GeluLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        out = x.new_empty(x.shape[0], weight.shape[0])
        for rows, activation in _activations(x):
            torch.addmm(bias, activation, weight.t(), out=out[rows])
        ctx.save_for_backward(x, weight)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        d_x, d_weight = torch.empty_like(x), torch.zeros_like(weight)
        for rows, activation in _activations(x):
            d_weight.addmm_(grad[rows].t(), activation)
            d_activation = torch.mm(grad[rows], weight, out=activation)
            torch.ops.aten.gelu_backward.grad_input(d_activation, x[rows], grad_input=d_x[rows])
        return d_x, d_weight, grad.sum(0)


def _activations(x: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """(which rows, their GELU) of x [T, D]. One buffer serves all: what is yielded is overwritten by the next."""
    step = max(1, CHUNK_ELEMENTS // x.shape[1])
    buffer = x.new_empty(min(step, x.shape[0]), x.shape[1])
    for start in range(0, x.shape[0], step):
        part = x[start : start + step]
        yield slice(start, start + step), torch.ops.aten.gelu.out(part, out=buffer[: part.shape[0]])


class Mlp(nn.Module):
    """fc1, exact GELU, fc2: [..., D] -> [..., D]."""

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        hidden = int(width * ratio)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = GeluLinear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x))
