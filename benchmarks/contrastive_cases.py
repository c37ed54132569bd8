"""The contrastive losses and who else computes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from cases import Case, Provider
from distill_cases import solve, unit
from measure import device
from open_clip.loss import ClipLoss, SigLipLoss
from torch import Tensor

from silc_kernels import contrastive_loss

# batch B, width d; repeats
SIZES = {
    "tiny": [(24, 16, 1)],
    "cpu": [(128, 128, 30), (2048, 512, 3), (16384, 512, 1)],
    "cuda": [(4096, 768, 20), (8192, 768, 20), (16384, 768, 10), (32768, 768, 10)],
}
GATE = (512, 64)
BOUND = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
# The sigmoid at the CPU's largest batch takes minutes and shows nothing that the smaller one does not.
LARGEST_SIGMOID_ON_CPU = 8192


def contrastive_cases(size: str) -> Iterator[Case]:
    dtype = torch.bfloat16 if size == "cuda" else torch.float32
    for kind, units in (("softmax", 4), ("sigmoid", 3)):
        for B, d, repeats in [(*GATE, 1), *SIZES[size]]:
            if kind == "sigmoid" and size == "cpu" and B > LARGEST_SIGMOID_ON_CPU:
                continue
            make = partial(one_process, B, d, kind, dtype)
            bound = BOUND[dtype] if (B, d) == GATE else None
            moved = 4 * B * d * dtype.itemsize  # features in, their gradients out
            yield Case(
                f"contrastive_loss {kind}", f"B={B} d={d}", make, moved, units * 2 * B * B * d, repeats, dtype, bound
            )


def one_process(B: int, d: int, kind: str, dtype: torch.dtype) -> dict[str, Provider]:
    """Each returns [value, d image, d text, d scale (, d bias)]."""
    image, text = unit(B, d, dtype=dtype).requires_grad_(), unit(B, d, dtype=dtype).requires_grad_()
    scale = torch.tensor([1 / 0.07], device=device(), requires_grad=True)
    bias = torch.tensor([-10.0], device=device(), requires_grad=True) if kind == "sigmoid" else None
    leaves = [image, text, scale] + ([] if bias is None else [bias])
    peer = ClipLoss() if kind == "softmax" else SigLipLoss()

    def theirs(i: Tensor, t: Tensor) -> Tensor:
        # In mixed precision open_clip's scale takes the features' dtype.
        return peer(i, t, scale.to(dtype), None if bias is None else bias.to(dtype))

    return {
        "silc_kernels": lambda: solve(contrastive_loss(image, text, scale, bias, kind=kind), leaves),
        f"open_clip {type(peer).__name__}": lambda: solve(theirs(image, text), leaves),
        **compiled(theirs, image, text, leaves),
    }


def compiled(
    theirs: Callable[[Tensor, Tensor], Tensor], image: Tensor, text: Tensor, leaves: list[Tensor]
) -> dict[str, Provider]:
    """torch.compile of the peer, on a GPU; on a CPU compiling alone would take the benchmark's two minutes."""
    if device().type != "cuda":
        return {}
    fast = torch.compile(theirs, dynamic=False)
    return {"torch.compile of open_clip's": lambda: solve(fast(image, text), leaves)}
