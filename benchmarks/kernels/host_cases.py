"""The ops at shapes so small that a call is what the host does: what host_bench.py times."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

BF16 = torch.bfloat16
TEMPERATURES = {"student_temp": 0.1, "teacher_temp": 0.04}


@dataclass(frozen=True)
class HostCase:
    """One op at one shape.

    Attributes:
        op, shape: as printed.
        make: device -> the call, whose inputs it holds.
        differentiable: whether `make(device)().sum().backward()` is there to be timed.
    """

    op: str
    shape: str
    make: Callable[[torch.device], Callable[[], Tensor]]
    differentiable: bool = True


def host_cases() -> Iterator[HostCase]:
    yield HostCase("distill_loss", "S=3 T=2 N=4 K=256 bf16", _distill_loss)
    yield HostCase("distill_head_loss", "S=3 T=2 N=4 K=256 d=256 bf16", _distill_head_loss)
    for kind in ("softmax", "sigmoid"):
        for slices in (1, 8):
            made = _contrastive_loss(kind, 64 // slices)
            yield HostCase(f"contrastive_loss {kind}", f"n=64 d=64 bf16, {slices} slices", made)
    yield HostCase("patch_embed", "2x64px 2x48px p=16 D=64 bytes", _patch_embed)
    yield HostCase("MultiCropPatchEmbed", "2x64px 2x48px p=16 D=64 bytes", _patch_module)
    yield HostCase("photometric", "4x64px in place", _photometric, differentiable=False)
    yield HostCase("crop_resize", "2 images, 4 views of 32px", _crop_resize, differentiable=False)


def _leaf(*shape: int, device: torch.device, dtype: torch.dtype = BF16) -> Tensor:
    return torch.randn(*shape, device=device).to(dtype).requires_grad_()


def _distill_loss(device: torch.device) -> Callable[[], Tensor]:
    from silc_kernels import distill_loss

    student = _leaf(3, 4, 256, device=device)
    teacher, center = torch.randn(2, 4, 256, device=device).to(BF16), torch.zeros(256, device=device)
    return lambda: distill_loss(student, teacher, center, **TEMPERATURES)


def _distill_head_loss(device: torch.device) -> Callable[[], Tensor]:
    from silc_kernels import distill_head_loss

    student, weight = _leaf(3, 4, 256, device=device), _leaf(256, 256, device=device)
    teacher, teacher_weight = (torch.randn(*shape, device=device).to(BF16) for shape in ((2, 4, 256), (256, 256)))
    center = torch.zeros(256, device=device)
    return lambda: distill_head_loss(student, teacher, weight, teacher_weight, center, **TEMPERATURES)


def _contrastive_loss(kind: str, chunk: int) -> Callable[[torch.device], Callable[[], Tensor]]:
    def make(device: torch.device) -> Callable[[], Tensor]:
        from silc_kernels import contrastive_loss

        image, text = _leaf(64, 64, device=device), _leaf(64, 64, device=device)
        scale = torch.tensor([14.0], device=device, requires_grad=True)
        bias = torch.tensor([-10.0], device=device, requires_grad=True) if kind == "sigmoid" else None
        return lambda: contrastive_loss(image, text, scale, bias, kind=kind, chunk=chunk)

    return make


def _crops(device: torch.device) -> list[Tensor]:
    return [torch.zeros(2, 3, side, side, dtype=torch.uint8, device=device) for side in (64, 48)]


def _patch_embed(device: torch.device) -> Callable[[], Tensor]:
    from silc_kernels import patch_embed

    crops = _crops(device)
    weight, bias, *positions = (
        _leaf(*shape, device=device, dtype=torch.float32) for shape in ((64, 3, 16, 16), (64,), (16, 64), (9, 64))
    )
    half = (0.5, 0.5, 0.5)
    return lambda: patch_embed(crops, weight, bias, positions, mean=half, std=half, out_dtype=BF16)


def _patch_module(device: torch.device) -> Callable[[], Tensor]:
    from silc_kernels import MultiCropPatchEmbed

    crops = _crops(device)
    module = MultiCropPatchEmbed(64, 16, (4, 4), prefix_tokens=1, out_dtype=BF16).to(device)
    return lambda: module(crops)


def _photometric(device: torch.device) -> Callable[[], Tensor]:
    from silc_kernels import photometric

    views = torch.zeros(4, 3, 64, 64, dtype=torch.uint8, device=device)
    row: list[Any] = [0.9, 1.1, 0.8, 0.05, 3, 0, 1.0, 0]
    parameters = torch.tensor([row] * 4)
    return lambda: photometric(views, parameters, inplace=True)


def _crop_resize(device: torch.device) -> Callable[[], Tensor]:
    from silc_kernels import crop_resize

    pixels = torch.zeros(2 * 64 * 80 * 3, dtype=torch.uint8, device=device)
    offsets, sizes = torch.tensor([0, 64 * 80 * 3]), torch.tensor([[64, 80], [64, 80]])
    boxes = torch.tensor([[3, 5, 40, 50], [0, 0, 64, 80], [10, 20, 30, 30], [1, 2, 50, 60]])
    index, flips = torch.tensor([0, 1, 0, 1]), torch.tensor([False, True, False, True])
    return lambda: crop_resize(pixels, offsets, sizes, index, boxes, flips, 32)
