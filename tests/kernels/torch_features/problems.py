"""A small call of every op for the tests of torch's features around them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from silc_kernels import (
    center_update,
    contrastive_loss,
    crop_resize,
    distill_head_loss,
    distill_loss,
    patch_embed,
    photometric,
    resize_positions,
)
from tests.kernels.oracles import normal, unit

K, D = 10, 8
TEMPS = {"student_temp": 0.1, "teacher_temp": 0.04}
STATISTICS = {"mean": (0.48, 0.45, 0.4), "std": (0.27, 0.26, 0.28)}
BOX = torch.tensor([[0, 0, 16, 16]])


class Problem(NamedTuple):
    """call(*inputs) -> Tensor.

    trained: which of the inputs get a gradient. batch: which dimension of which input is the number of samples.
    """

    call: Callable[..., Tensor]
    inputs: list[Tensor]
    trained: Sequence[int]
    batch: dict[int, int]


def pixels(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def _softmax(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    return contrastive_loss(image, text, scale)


def _sigmoid(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return contrastive_loss(image, text, scale, bias, kind="sigmoid")


def _logits(student: Tensor, teacher: Tensor, center: Tensor) -> Tensor:
    return distill_loss(student, teacher, center, **TEMPS)


def _head(student: Tensor, teacher: Tensor, weight: Tensor, teacher_weight: Tensor, center: Tensor) -> Tensor:
    return distill_head_loss(student, teacher, weight, teacher_weight, center, **TEMPS)


def _patches(crops: Tensor, weight: Tensor, bias: Tensor, positions: Tensor, prefix: Tensor) -> Tensor:
    return patch_embed([crops], weight, bias, [positions], prefix=prefix, **STATISTICS)


def _positions(table: Tensor) -> Tensor:
    return resize_positions(table, (2, 2), (3, 3))


def _crops(data: Tensor) -> Tensor:
    """One crop of one image, all of it."""
    sizes, first = torch.tensor([[16, 16]]), torch.tensor([0])
    return crop_resize(data, first, sizes, first, BOX, torch.tensor([False]), 8)


def _center(center: Tensor, features: Tensor, weight: Tensor) -> Tensor:
    return center_update(center, features.mean(0), weight, momentum=0.9)


def problem(op: str, n: int = 4, dtype: torch.dtype = torch.float32) -> Problem:
    """`op`, a key of OPS, for n samples; what is trained asks for a gradient."""
    made = OPS[op](n, dtype)
    for place in made.trained:
        made.inputs[place].requires_grad_()
    return made


def _pairs(n: int, dtype: torch.dtype) -> list[Tensor]:
    return [unit(n, D, seed=1, dtype=dtype), unit(n, D, seed=2, dtype=dtype), torch.tensor([5.0])]


OPS: dict[str, Callable[[int, torch.dtype], Problem]] = {
    "softmax": lambda n, dtype: Problem(_softmax, _pairs(n, dtype), (0, 1, 2), {0: 0, 1: 0}),
    "sigmoid": lambda n, dtype: Problem(
        _sigmoid, [*_pairs(n, dtype), torch.tensor([-4.0])], (0, 1, 2, 3), {0: 0, 1: 0}
    ),
    "distill_loss": lambda n, dtype: Problem(
        _logits,
        [normal(3, n, K, dtype=dtype), normal(2, n, K, seed=1, dtype=dtype), torch.full((K,), 0.1)],
        (0,),
        {0: 1, 1: 1},
    ),
    "distill_head_loss": lambda n, dtype: Problem(
        _head,
        [
            *(unit(count, n, D, seed=count, dtype=dtype) for count in (3, 2)),
            *(unit(K, D, seed=seed, dtype=dtype) for seed in (4, 5)),
            torch.full((K,), 0.1),
        ],
        (0, 2),
        {0: 1, 1: 1},
    ),
    "patch_embed": lambda n, dtype: Problem(
        _patches,
        [
            pixels(n),
            normal(D, 3, 8, 8, dtype=dtype),
            *(normal(*shape, seed=1, dtype=dtype) for shape in ((D,), (4, D), (1, D))),
        ],
        (1, 2, 3, 4),
        {0: 0},
    ),
    "resize_positions": lambda n, dtype: Problem(_positions, [normal(1, 4, D, dtype=dtype)], (0,), {}),
    "photometric": lambda n, dtype: Problem(
        photometric, [pixels(n), torch.tensor([[1.3, 0.8, 1.1, 0.05, 7, 0, 1.5, 0]]).repeat(n, 1)], (), {0: 0, 1: 0}
    ),
    "crop_resize": lambda n, dtype: Problem(_crops, [pixels(1).flatten()], (), {}),
    "center_update": lambda n, dtype: Problem(
        _center, [torch.zeros(K), normal(n, D, dtype=dtype), unit(K, D, dtype=dtype)], (), {1: 0}
    ),
}


def gradients(output: Tensor, of: Problem) -> list[Tensor]:
    """Of the sum of the output's squares, of all that is trained."""
    return list(torch.autograd.grad(output.square().sum(), [of.inputs[place] for place in of.trained]))
