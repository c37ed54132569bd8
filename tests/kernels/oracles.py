"""Plain formulas the ops are tested against: whole matrices, float64, autograd; nothing shared with the package."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode


def unit(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random unit vectors along the last dimension."""
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1).to(dtype)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def distillation(
    student: Tensor, teacher: Tensor, center: Tensor, student_temp: float, teacher_temp: float, weights: Tensor | None
) -> Tensor:
    """Pair by pair, as written in the paper. Logits [S, N, K] and [T, N, K]."""
    if weights is None:
        weights = torch.ones(student.shape[0], teacher.shape[0])
    total = 0
    for s, own in enumerate(student):
        for t, other in enumerate(teacher):
            target = functional.softmax((other - center) / teacher_temp, dim=-1)
            entropy = -(target * functional.log_softmax(own / student_temp, dim=-1)).sum(-1)
            total = total + float(weights[s, t]) * entropy.mean()
    return total / float(weights.double().sum())


def contrastive(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor | None, kind: str) -> Tensor:
    """One process, the whole [B, B] matrix of each view. image [V, B, d]."""
    losses = []
    for view in image:
        logits = scale * view @ text.T + (0 if bias is None else bias)
        if kind == "softmax":
            labels = torch.arange(len(text))
            losses.append((functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)) / 2)
        else:
            signs = 2 * torch.eye(len(text), dtype=logits.dtype) - 1
            losses.append(-functional.logsigmoid(signs * logits).sum() / len(text))
    return torch.stack(losses).mean()


def tokens(
    crops: Sequence[Tensor], weight: Tensor, bias: Tensor, positions: Sequence[Tensor], mean, std, prefix: Tensor | None
) -> Tensor:
    """Normalise, convolve, flatten, add, prepend, concatenate; in the weight's dtype."""
    rows = []
    for crop, table in zip(crops, positions, strict=True):
        pixels = crop.to(weight.dtype)
        if crop.dtype == torch.uint8:
            statistics = torch.tensor([mean, std], dtype=weight.dtype).view(2, 3, 1, 1)
            pixels = (pixels / 255 - statistics[0]) / statistics[1]
        out = functional.conv2d(pixels, weight, bias, stride=weight.shape[-1]).flatten(2).transpose(1, 2) + table
        if prefix is not None:
            out = torch.cat([prefix.expand(len(crop), -1, -1), out], dim=1)
        rows.append(out.reshape(-1, weight.shape[0]))
    return torch.cat(rows)


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
