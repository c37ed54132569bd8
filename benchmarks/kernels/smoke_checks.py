"""What the smoke test checks: each op at an even size and at an odd one, in each dtype that its kernels take."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.common.measure import device
from silc_kernels import contrastive_loss, crop_resize, distill_head_loss, distill_loss, patch_embed, photometric
from silc_kernels.common.triton_runtime import INTERPRET
from silc_kernels.contrastive import naive as contrastive_naive
from silc_kernels.crops import naive as crops_naive
from silc_kernels.distill import naive as distill_naive
from silc_kernels.patch_embedding import naive as patch_naive
from silc_kernels.photometry import naive as photometry_naive

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
HALVES = DTYPES[:2]
TEMPS = {"student_temp": 0.1, "teacher_temp": 0.04}
HALF = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
# S, N, T, K; S, N, T, K, d; V, n, d; ((crops, side), ...), patch, width; views, side; images' sides, size.
SIZES = {
    "distill_loss": [(10, 16, 2, 8192), (3, 5, 2, 1037)],
    "distill_head_loss": [(10, 16, 2, 8192, 256), (3, 70, 2, 1037, 72)],
    "contrastive_loss": [(1, 1024, 768), (2, 301, 72), (1, 70, 12)],
    "patch_embed": [(((4, 256), (8, 96)), 16, 768), (((3, 28), (2, 42)), 14, 260)],
    "photometric": [(25, 96), (7, 37)],
    "crop_resize": [((160, 120), 96), ((61, 43), 17)],
}
TINY = {
    "distill_loss": [(3, 2, 2, 513)],
    "distill_head_loss": [(2, 3, 2, 150, 24)],
    "contrastive_loss": [(2, 31, 12)],
    "patch_embed": [(((1, 32), (2, 16)), 16, 24)],
    "photometric": [(3, 9)],
    "crop_resize": [((17, 9), 7)],
}


@dataclass(frozen=True)
class Check:
    """solve(how) returns a value and its gradients: how is "triton", "torch" (both by the op), or "exact" (float64).

    floor: relative error allowed beside twice that of plain torch in `dtype`.
    """

    name: str
    dtype: torch.dtype
    solve: Callable[[str], list[Tensor]]
    floor: float


# By norm: what sums and G are rounded to on the way; of bytes, a few that are one level off.
FLOOR = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2, torch.uint8: 2e-3}


def checks(tiny: bool = INTERPRET) -> Iterator[Check]:
    """All of them, the likeliest to be wrong first. tiny: sizes for the interpreter."""
    sizes = TINY if tiny else SIZES
    if not INTERPRET:  # a CPU has no such product, and the interpreter takes another branch
        for dtype in HALVES:
            yield Check(f"addmm of {_name(dtype)} into float32", dtype, partial(product, dtype), FLOOR[dtype])
    for op, dtypes, solve in (
        ("patch_embed", DTYPES, embedding),
        ("distill_head_loss", DTYPES[::2] if INTERPRET else HALVES, head),
        ("contrastive_loss softmax", DTYPES, partial(contrastive, "softmax")),
        ("contrastive_loss sigmoid", DTYPES, partial(contrastive, "sigmoid")),
        ("distill_loss", DTYPES, logits),
    ):
        for dtype, shape in itertools.product(dtypes, sizes[op.split()[0]]):
            yield Check(f"{op} {_text(shape)} {_name(dtype)}", dtype, partial(solve, dtype, shape), FLOOR[dtype])
    for op, work, floor in (("photometric", distorted, FLOOR[torch.uint8]), ("crop_resize", cropped, 0.0)):
        for shape in sizes[op]:
            yield Check(f"{op} {_text(shape)} bytes", torch.uint8, partial(work, shape), floor)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _text(shape: tuple) -> str:
    return str(shape).replace(" ", "").replace(",", " ")


def random(*shape: int, seed: int, unit: bool = False) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return functional.normalize(values, dim=-1) if unit else values


def there(values: Tensor, dtype: torch.dtype, how: str, trained: bool = True) -> Tensor:
    """On the device in `dtype`, and those very numbers in float64 where the exact result is asked for."""
    moved = values.to(device(), dtype)
    return (moved.double() if how == "exact" else moved).requires_grad_(trained)


def solved(loss: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


def product(dtype: torch.dtype, how: str) -> list[Tensor]:
    """Half precision times half precision, added to float32, in place: as the contrastive gradient does it."""
    left, right = (there(random(1024, 1024, seed=seed), dtype, how, False) for seed in (1, 2))
    total = there(random(1024, 1024, seed=3), torch.float32, how, False)
    if how == "triton":
        torch.addmm(total, left, right, torch.float32, alpha=0.5, out=total)
        return [total]
    return [total + 0.5 * left.to(total.dtype) @ right.to(total.dtype)]


def logits(dtype: torch.dtype, shape: tuple[int, ...], how: str) -> list[Tensor]:
    S, N, T, K = shape
    student = there(random(S, N, K, seed=1), dtype, how)
    teacher = there(random(T, N, K, seed=2), dtype, how, False)
    center = there(0.1 * random(K, seed=3), torch.float32, how, False)
    if how == "exact":
        return solved(distill_naive.distill_loss(student, teacher, center, **TEMPS), [student])
    return solved(distill_loss(student, teacher, center, backend=how, **TEMPS), [student])


def head(dtype: torch.dtype, shape: tuple[int, ...], how: str) -> list[Tensor]:
    S, N, T, K, d = shape
    student, weight = (
        there(random(*size, seed=seed, unit=True), dtype, how) for seed, size in ((1, (S, N, d)), (2, (K, d)))
    )
    teacher, teacher_weight = (
        there(random(*size, seed=seed, unit=True), dtype, how, False) for seed, size in ((3, (T, N, d)), (4, (K, d)))
    )
    center = there(0.05 * random(K, seed=5), torch.float32, how, False)
    inputs = student, teacher, weight, teacher_weight, center
    if how == "exact":
        return solved(distill_naive.distill_head_loss(*inputs, **TEMPS), [student, weight])
    return solved(distill_head_loss(*inputs, backend=how, **TEMPS), [student, weight])


def contrastive(kind: str, dtype: torch.dtype, shape: tuple[int, ...], how: str) -> list[Tensor]:
    V, n, d = shape
    texts = random(n, d, seed=2, unit=True)
    image = there(functional.normalize(random(V, n, d, seed=1, unit=True) + 0.7 * texts, dim=-1), dtype, how)
    text = there(texts, dtype, how)
    scale, bias = (there(torch.tensor([value]), torch.float32, how) for value in (14.0, -10.0))
    inputs = [image, text, scale, *([bias] if kind == "sigmoid" else [])]
    if how == "exact":
        return solved(contrastive_naive.contrastive_loss(*inputs, kind=kind), inputs)
    return solved(contrastive_loss(*inputs, kind=kind, backend=how), inputs)


def embedding(dtype: torch.dtype, shape: tuple, how: str) -> list[Tensor]:
    """Parameters in float32 as a trainer holds them; tokens, and on Triton the products, in `dtype`."""
    groups, patch, width = shape
    crops = [
        torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(side))
        for count, side in groups
    ]
    crops = [crop.to(device()) for crop in crops]
    weight = there(random(width, 3, patch, patch, seed=1) / (1.7 * patch), torch.float32, how)
    bias = there(random(width, seed=2), torch.float32, how)
    tables = [there(random((side // patch) ** 2, width, seed=side), torch.float32, how) for _, side in groups]
    leaves = [weight, bias, *tables]
    if how == "exact":
        tokens = patch_naive.patch_embed(crops, weight, bias, tables, **HALF)
    else:
        tokens = patch_embed(crops, weight, bias, tables, **HALF, out_dtype=dtype, backend=how)
    upstream = there(random(*tokens.shape, seed=4), dtype, how, False)
    return [tokens.detach(), *torch.autograd.grad(tokens, leaves, upstream)]


def distorted(shape: tuple[int, int], how: str) -> list[Tensor]:
    """Bytes, within the rounding of a few: the relative error of them all."""
    count, side = shape
    generator = torch.Generator().manual_seed(1)
    views = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    drawn = torch.rand(count, 8, generator=generator)
    low = torch.tensor([0.6, 0.6, 0.8, -0.1, 0, 0, 0.1, 0])
    high = torch.tensor([1.4, 1.4, 1.2, 0.1, 0, 1.5, 2.0, 1.5])
    rows = low + (high - low) * drawn
    rows[:, 4], rows[:, [5, 7]] = torch.arange(count) % 25 - 1.0, rows[:, [5, 7]].floor()
    if how == "exact":
        return [photometry_naive.photometric(views, rows)]
    return [photometric(views.to(device()), rows, backend=how).cpu()]


def cropped(shape: tuple[tuple[int, int], int], how: str) -> list[Tensor]:
    """Bytes, equal to the last: torch's own CPU kernel in whole numbers."""
    (height, width), size = shape
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (2 * 3 * height * width,), dtype=torch.uint8, generator=generator)
    offsets, sizes = torch.tensor([0, 3 * height * width]), torch.tensor([[height, width]] * 2)
    boxes = torch.tensor([[1, 2, height - 2, width - 3], [0, 0, height, width], [3, 1, 5, 7]])
    rest = offsets, sizes, torch.tensor([0, 1, 1]), boxes, torch.tensor([True, False, False]), size
    if how == "exact":
        return [crops_naive.crop_resize(pixels, *rest)]
    return [crop_resize(pixels.to(device()), *rest, backend=how).cpu()]
