"""The losses of silc_kernels against open_clip's and lightly's: correct first, then time and peak memory.

    python benchmarks/loss_bench.py

Forward and backward, float32, random unit features. Within two minutes on two idle CPU cores; on a GPU at full size.
"""

import torch
from lightly.loss import DINOLoss
from measure import banner, compare, device, gate, show
from open_clip.loss import ClipLoss, SigLipLoss
from torch import Tensor
from torch.nn import functional

from silc_kernels import contrastive_loss, distill_head_loss

# samples N, student crops S, teacher views T, prototypes K, width d; repeats
DISTILL = {"cpu": [(128, 4, 2, 4096, 128, 9), (64, 10, 2, 65536, 256, 3)], "cuda": [(1024, 10, 2, 65536, 256, 10)]}
# batch B, width d; repeats
CONTRASTIVE = {"cpu": [(128, 128, 30), (2048, 512, 3), (16384, 512, 1)], "cuda": [(4096, 768, 20), (32768, 768, 10)]}
GATE_DISTILL = (16, 4, 2, 1024, 64)
GATE_CONTRASTIVE = (512, 64)
BOUND = 1e-5


def unit(*shape: int) -> Tensor:
    return functional.normalize(torch.randn(*shape, device=device()), dim=-1)


def solve(loss: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


def distill_providers(N: int, S: int, T: int, K: int, d: int):
    """Each returns [value, d features, d weight]; lightly gets the last linear layer in front."""
    student, weight = unit(S, N, d).requires_grad_(), unit(K, d).requires_grad_()
    teacher, teacher_weight = unit(T, N, d), unit(K, d)
    center = torch.zeros(K, device=device())
    # lightly leaves out the pairs of equal index: the same loss needs the same pairs.
    pairs = torch.ones(S, T).fill_diagonal_(0)
    # It also moves its centre in the forward: with momentum 1 it stays where ours is.
    peer = DINOLoss(output_dim=K, teacher_temp=0.04, student_temp=0.1, center_momentum=1.0).to(device())

    def ours(weights: Tensor | None) -> list[Tensor]:
        loss = distill_head_loss(
            student, teacher, weight, teacher_weight, center, student_temp=0.1, teacher_temp=0.04, pair_weights=weights
        )
        return solve(loss, [student, weight])

    def lightly() -> list[Tensor]:
        loss = peer(list(functional.linear(teacher, teacher_weight)), list(functional.linear(student, weight)))
        return solve(loss, [student, weight])

    return {
        "silc_kernels, lightly's pairs": lambda: ours(pairs),
        "silc_kernels, all pairs (SILC)": lambda: ours(None),
        "lightly DINOLoss + linear": lightly,
    }


def contrastive_providers(B: int, d: int, kind: str):
    """Each returns [value, d image, d text, d scale (, d bias)]."""
    image, text = unit(B, d).requires_grad_(), unit(B, d).requires_grad_()
    scale = torch.tensor([1 / 0.07], device=device(), requires_grad=True)
    bias = torch.tensor([-10.0], device=device(), requires_grad=True) if kind == "sigmoid" else None
    leaves = [image, text, scale] + ([] if bias is None else [bias])
    peer = ClipLoss() if kind == "softmax" else SigLipLoss()
    return {
        "silc_kernels": lambda: solve(contrastive_loss(image, text, scale, bias, kind=kind), leaves),
        f"open_clip {type(peer).__name__}": lambda: solve(peer(image, text, scale, bias), leaves),
    }


def main() -> None:
    torch.manual_seed(0)
    print(banner())
    ours, _, theirs = distill_providers(*GATE_DISTILL).values()
    gate("distill_head_loss", ours(), theirs(), BOUND)
    for kind in ("softmax", "sigmoid"):
        ours, theirs = contrastive_providers(*GATE_CONTRASTIVE, kind).values()
        gate(f"contrastive_loss {kind}", ours(), theirs(), BOUND)
    for *shape, repeats in DISTILL[device().type]:
        N, S, T, K, d = shape
        show(f"distill_head_loss N={N} S={S} T={T} K={K} d={d}", compare(distill_providers(*shape), repeats))
    for B, d, repeats in CONTRASTIVE[device().type]:
        for kind in ("softmax", "sigmoid"):
            if kind == "sigmoid" and B > 8192 and device().type == "cpu":
                continue  # minutes, and nothing that the smaller batch does not show
            show(f"contrastive_loss {kind} B={B} d={d}", compare(contrastive_providers(B, d, kind), repeats))


if __name__ == "__main__":
    main()
