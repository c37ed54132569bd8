"""The distillation losses and who else computes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.common.measure import device
from benchmarks.kernels.cases import Case, Provider
from benchmarks.kernels.peers import peer
from silc_kernels import distill_head_loss, distill_loss

# samples N, student crops S, teacher views T, prototypes K, width d; repeats
SIZES = {
    "tiny": [(4, 3, 2, 64, 16, 1)],
    "cpu": [(128, 4, 2, 4096, 128, 9), (64, 10, 2, 65536, 256, 3)],
    "cuda": [(64, 10, 2, 65536, 256, 10), (1024, 10, 2, 65536, 256, 10)],
}
# The form with logits on a CPU: the head form is what the trainer runs there.
LOGITS = {"tiny": SIZES["tiny"], "cpu": SIZES["cpu"][:1], "cuda": SIZES["cuda"]}
GATE = (16, 4, 2, 1024, 64)
BOUND = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
STUDENT_TEMP, TEACHER_TEMP = 0.1, 0.04
TEMPS = {"student_temp": STUDENT_TEMP, "teacher_temp": TEACHER_TEMP}


def distill_cases(size: str) -> Iterator[Case]:
    dtype = torch.bfloat16 if size == "cuda" else torch.float32
    for op, shapes, make in (("distill_loss", LOGITS, logits), ("distill_head_loss", SIZES, features)):
        for N, S, T, K, d, repeats in [(*GATE, 1), *shapes[size]]:
            rows, width = (S + T) * N, dtype.itemsize
            moved = (2 * rows + S * N) * K * width if op == "distill_loss" else 0
            products = 0 if op == "distill_loss" else 8 * rows * K * d
            shape = f"N={N} S={S} T={T} K={K}" + ("" if op == "distill_loss" else f" d={d}")
            gated = (N, S, T, K, d) == GATE
            makers = partial(make, N, S, T, K, d, dtype)
            yield Case(op, shape, makers, moved, products, repeats, dtype, BOUND[dtype] if gated else None)


def unit(*shape: int, dtype: torch.dtype) -> Tensor:
    return functional.normalize(torch.randn(*shape, device=device()), dim=-1).to(dtype)


def solve(loss: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


def logits(N: int, S: int, T: int, K: int, d: int, dtype: torch.dtype) -> dict[str, Provider]:
    """Each returns [value, d student logits]."""
    student = (torch.randn(S, N, K, device=device()) / 2).to(dtype).requires_grad_()
    teacher = (torch.randn(T, N, K, device=device()) / 2).to(dtype)
    center = 0.05 * torch.randn(K, device=device())
    pairs, lightly = lightly_pairs(S, T), lightly_loss(center)

    def ours() -> Tensor:
        return distill_loss(student, teacher, center, pair_weights=pairs, **TEMPS)

    moved = pairs.to(device())

    def eager(z: Tensor) -> Tensor:
        return einsum_loss(z, teacher, center, moved)

    found = {
        "silc_kernels": lambda: solve(ours(), [student]),
        "eager einsum": lambda: solve(eager(student), [student]),
        **compiled(eager, student, [student]),
    }
    if lightly:
        found["lightly DINOLoss"] = lambda: solve(lightly(list(teacher.float()), list(student.float())), [student])
    return found


def features(N: int, S: int, T: int, K: int, d: int, dtype: torch.dtype) -> dict[str, Provider]:
    """Each returns [value, d features, d weight]; the others get the last linear layer in front."""
    student, weight = unit(S, N, d, dtype=dtype).requires_grad_(), unit(K, d, dtype=dtype).requires_grad_()
    teacher, teacher_weight = unit(T, N, d, dtype=dtype), unit(K, d, dtype=dtype)
    center = torch.zeros(K, device=device())
    pairs, lightly = lightly_pairs(S, T), lightly_loss(center)
    leaves = [student, weight]

    def ours() -> Tensor:
        return distill_head_loss(student, teacher, weight, teacher_weight, center, pair_weights=pairs, **TEMPS)

    def unfused() -> Tensor:
        z = functional.linear(student, weight)
        targets = functional.linear(teacher, teacher_weight)
        return distill_loss(z, targets, center, pair_weights=pairs, inplace_backward=True, **TEMPS)

    moved = pairs.to(device())

    def eager(x: Tensor) -> Tensor:
        targets = functional.linear(teacher, teacher_weight)
        return einsum_loss(functional.linear(x, weight), targets, center, moved)

    found = {
        "silc_kernels": lambda: solve(ours(), leaves),
        "linear + silc_kernels distill_loss": lambda: solve(unfused(), leaves),
        **compiled(eager, student, leaves),
    }
    if lightly:

        def theirs() -> Tensor:
            logits = functional.linear(teacher, teacher_weight), functional.linear(student, weight)
            return lightly(*(list(each.float()) for each in logits))

        found["lightly DINOLoss + linear"] = lambda: solve(theirs(), leaves)
    return found


def lightly_pairs(S: int, T: int) -> Tensor:
    """lightly leaves out the pairs of equal index; the same loss needs the same pairs. All pairs cost the same.

    On the CPU, where our ops check them and keep their copy on the device: weights on the device would be read back,
    a wait in every call, and nothing with a wait can be captured as a CUDA graph.
    """
    return torch.ones(S, T).fill_diagonal_(0)


def lightly_loss(center: Tensor) -> Callable[..., Tensor] | None:
    """With momentum 1, so that its center stays where ours is. It takes float32 logits alone. None: not installed."""
    losses = peer("lightly.loss")
    if losses is None:
        return None
    K = center.shape[0]
    loss = losses.DINOLoss(output_dim=K, teacher_temp=TEACHER_TEMP, student_temp=STUDENT_TEMP, center_momentum=1.0)
    loss.center = center.view(1, 1, K)
    return loss


def einsum_loss(z: Tensor, teacher: Tensor, center: Tensor, pairs: Tensor) -> Tensor:
    """As most code bases write it: two softmax tensors and an einsum over the pairs."""
    targets = functional.softmax((teacher.float() - center) / TEACHER_TEMP, dim=-1)
    log_probabilities = functional.log_softmax(z.float() / STUDENT_TEMP, dim=-1)
    entropy = -torch.einsum("tnk,snk->nst", targets, log_probabilities)
    return (entropy * pairs).sum() / (pairs.sum() * z.shape[1])


def compiled(eager: Callable[[Tensor], Tensor], x: Tensor, leaves: list[Tensor]) -> dict[str, Provider]:
    """torch.compile of `eager`, on a GPU; on a CPU compiling alone would take the benchmark's two minutes."""
    if device().type != "cuda":
        return {}
    fast = torch.compile(eager, dynamic=False)
    return {"torch.compile of eager": lambda: solve(fast(x), leaves)}
