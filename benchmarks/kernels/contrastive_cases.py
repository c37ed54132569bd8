"""The contrastive losses and who else computes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor

from benchmarks.common.measure import device
from benchmarks.kernels.cases import Case, Provider
from benchmarks.kernels.distill_cases import solve, unit
from benchmarks.kernels.simulated_ranks import among, clip_loss, eager_sigmoid, eager_softmax, inf_cl_loss, siglip_loss
from silc_kernels import contrastive_loss

# pairs of a rank n, ranks, width d; repeats. More ranks than one: the others simulated on this device.
SIZES = {
    "tiny": [(24, 1, 16, 1), (8, 3, 16, 1)],
    "cpu": [(128, 1, 128, 30), (2048, 1, 512, 3), (16384, 1, 512, 1)],
    "cuda": [
        *[(n, 1, 768, 20) for n in (4096, 8192, 16384, 32768)],
        *[(4096, ranks, 768, 20) for ranks in (2, 4, 8, 16)],
    ],
}
GATES = [(512, 1, 64), (128, 4, 64)]
BOUND = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
# Inf-CL loads heads of at least this many features.
LEAST_HEAD = 16
# Where torch.compile is asked too, pairs of one rank: each takes it seconds. Not where ranks are simulated: they hold
# the same features, and it computes them once.
COMPILED = {512, 8192, 32768}
# The sigmoid at the CPU's largest batch takes minutes and shows nothing that the smaller one does not.
LARGEST_SIGMOID_ON_CPU = 8192


def contrastive_cases(size: str) -> Iterator[Case]:
    dtype = torch.bfloat16 if size == "cuda" else torch.float32
    for kind, units in (("softmax", 4), ("sigmoid", 3)):
        for n, ranks, d, repeats in [*((*gate, 1) for gate in GATES), *SIZES[size]]:
            batch = n * ranks
            if kind == "sigmoid" and size == "cpu" and batch > LARGEST_SIGMOID_ON_CPU:
                continue
            shape = f"B={batch} d={d}" if ranks == 1 else f"B={batch} d={d} n={n}, {ranks - 1} ranks simulated"
            bound = BOUND[dtype] if (n, ranks, d) in GATES else None
            moved = (2 * n + 2 * batch) * d * dtype.itemsize  # features in, gradients out
            make = partial(providers, n, ranks, d, kind, dtype)
            flops = units * 2 * n * batch * d
            yield Case(f"contrastive_loss {kind}", shape, make, moved, flops, repeats, dtype, bound)


def providers(n: int, ranks: int, d: int, kind: str, dtype: torch.dtype) -> dict[str, Provider]:
    """Each returns [value, d image, d text, d scale (, d bias)]."""
    image, text = unit(n, d, dtype=dtype).requires_grad_(), unit(n, d, dtype=dtype).requires_grad_()
    scale = torch.tensor([1 / 0.07], device=device(), requires_grad=True)
    bias = torch.tensor([-10.0], device=device(), requires_grad=True) if kind == "sigmoid" else None
    leaves = [image, text, scale] + ([] if bias is None else [bias])

    def ours() -> list[Tensor]:
        with among(ranks) if ranks > 1 else nullcontext():
            return solve(contrastive_loss(image, text, scale, bias, kind=kind, plan="reduce_scatter"), leaves)

    name, loss = others(kind, ranks)

    def theirs(i: Tensor, t: Tensor) -> Tensor:
        # In mixed precision open_clip's scale takes the features' dtype.
        return loss(i, t, scale.to(dtype), None if bias is None else bias.to(dtype))

    def eager() -> list[Tensor]:
        with among(ranks):
            return solve(theirs(image, text), leaves)

    found = {"silc_kernels": ours, name: eager, **compiled(name, theirs, image, text, leaves, ranks)}
    if kind == "softmax":
        found |= inf_cl(image, text, scale, ranks)
    return found


def others(kind: str, ranks: int) -> tuple[str, Callable[..., Tensor]]:
    """The peer's name and loss: open_clip's, or the same in plain torch where it is not installed."""
    open_clip = (clip_loss if kind == "softmax" else siglip_loss)(ranks)
    if open_clip is None:
        return "eager torch", eager_softmax(ranks) if kind == "softmax" else eager_sigmoid(ranks)
    return ("open_clip ClipLoss" if kind == "softmax" else "open_clip SigLipLoss"), open_clip


def compiled(
    name: str,
    theirs: Callable[[Tensor, Tensor], Tensor],
    image: Tensor,
    text: Tensor,
    leaves: list[Tensor],
    ranks: int,
) -> dict[str, Provider]:
    """torch.compile of the peer, on a GPU; on a CPU compiling alone would take the benchmark's two minutes."""
    if device().type != "cuda" or ranks > 1 or len(image) not in COMPILED:
        return {}
    fast = torch.compile(theirs, dynamic=False)

    def run() -> list[Tensor]:
        with among(ranks):
            return solve(fast(image, text), leaves)

    return {"torch.compile of open_clip's" if "open_clip" in name else f"torch.compile of {name}": run}


def inf_cl(image: Tensor, text: Tensor, scale: Tensor, ranks: int) -> dict[str, Provider]:
    """Inf-CL, where it runs; where not, a line says why."""
    why = ""
    if device().type != "cuda":
        why = "its kernels need a CUDA device"
    elif find_spec("inf_cl") is None:
        why = "package inf_cl is not installed"
    elif image.shape[1] % LEAST_HEAD:
        why = f"it takes widths that are multiples of {LEAST_HEAD}, not {image.shape[1]}"
    if why:
        print(f"  left out: Inf-CL ({why})")
        return {}
    loss = inf_cl_loss(ranks)
    return {"Inf-CL": lambda: solve(loss(image, text, scale), [image, text, scale])}
