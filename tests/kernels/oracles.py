"""What the ops are tested against: the package's naive formulas, in float64, and how far off a result is.

The naive formulas share nothing with the ops, and are themselves tested against other packages in test_naive.py.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from silc_kernels.contrastive import naive as contrastive_naive
from silc_kernels.distill import naive as distill_naive
from silc_kernels.patch_embedding import naive as patch_naive


def unit(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random unit vectors along the last dimension."""
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1).to(dtype)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def distillation(
    student: Tensor, teacher: Tensor, center: Tensor, student_temp: float, teacher_temp: float, weights: Tensor | None
) -> Tensor:
    """Logits [S, N, K] and [T, N, K]."""
    temps = {"student_temp": student_temp, "teacher_temp": teacher_temp}
    return distill_naive.distill_loss(student, teacher, center, pair_weights=weights, **temps)


def contrastive(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor | None, kind: str) -> Tensor:
    """One process, image [V, B, d]."""
    return contrastive_naive.contrastive_loss(image, text, scale, bias, kind=kind)


def tokens(
    crops: Sequence[Tensor], weight: Tensor, bias: Tensor, positions: Sequence[Tensor], mean, std, prefix: Tensor | None
) -> Tensor:
    """In the weight's dtype; mean and std None: none are needed, the crops are normalized."""
    statistics = {"mean": mean or (0.0,) * 3, "std": std or (1.0,) * 3}
    return patch_naive.patch_embed(crops, weight, bias, positions, **statistics, prefix=prefix)


def relative(actual: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what was expected; nan if anything is."""
    actual, expected = actual.detach().double(), expected.detach().double()
    return float((actual - expected).norm() / expected.norm().clamp_min(1e-300))


def far_below_one_another(image: Tensor, text: Tensor) -> None:
    """Change [n, d] in place: all near one direction, but for a text opposite to it.

    At scale 100 its column then lies some 190 below the maxima of its rows.
    """
    direction = image[0].clone()
    for features in (image, text):
        features.copy_(functional.normalize(direction + 0.1 * features, dim=-1))
    text[3] = -direction


class Allocations(TorchDispatchMode):
    """Records the number of elements of every floating-point tensor that an op makes, views of inputs aside."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        known = {t.untyped_storage().data_ptr() for t in args if isinstance(t, Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if (
                isinstance(tensor, Tensor)
                and tensor.is_floating_point()
                and tensor.untyped_storage().data_ptr() not in known
            ):
                self.largest = max(self.largest, tensor.untyped_storage().nbytes() // tensor.element_size())
        return out
