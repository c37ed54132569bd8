"""The multi-crop patch embedding and who else computes it.

2 global and 8 local crops an image, from bytes to one packed sequence. What is timed: forward and backward; at the
largest shape also the forward alone, without gradients to come, as a teacher runs it, and the backward alone, again and
again on one graph. What that graph keeps (normalised pixels, but for ours) is then in nobody's time or memory, and
torch.compile is left out: it may write over what it keeps. The last row, products of patches that were cut, normalised
and cast beforehand, is no peer but what is left to gain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.common.measure import device
from benchmarks.kernels.cases import Case, Provider
from benchmarks.kernels.peers import peer
from silc_kernels import patch_embed

# images, patch, width, global side, local side; repeats
SIZES = {
    "tiny": [(1, 8, 16, 16, 8, 1)],
    "cpu": [(64, 8, 128, 64, 32, 9), (16, 16, 768, 256, 96, 7)],
    "cuda": [(16, 16, 768, 256, 96, 20), (256, 16, 768, 256, 96, 20)],
}
GATE = (2, 8, 64, 64, 32)
HALF = (0.5, 0.5, 0.5)
BOUND = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
GLOBALS, LOCALS = 2, 8
WHOLE, FORWARD, BACKWARD = "forward and backward", "forward", "backward"

Embed = Callable[[], Tensor]


def patch_embed_cases(size: str) -> Iterator[Case]:
    dtype = torch.bfloat16 if size == "cuda" else torch.float32
    for images, patch, width, large, small, repeats in [(*GATE, 1), *SIZES[size]]:
        shape = (images, patch, width, large, small)
        pixels = images * 3 * (GLOBALS * large**2 + LOCALS * small**2)
        tokens = pixels // (3 * patch**2)
        moved = pixels + tokens * width * dtype.itemsize  # a pass: bytes read, and tokens out or their gradients in
        for timed in TIMED if (*shape, repeats) == SIZES[size][-1] else [WHOLE]:
            passes = 2 if timed == WHOLE else 1
            yield Case(
                "patch_embed" if timed == WHOLE else f"patch_embed {timed}",
                f"{images} x ({GLOBALS} x {large}^2 + {LOCALS} x {small}^2) p={patch} D={width}",
                partial(providers, *shape, dtype, timed),
                passes * moved,
                passes * 2 * pixels * width,
                repeats,
                dtype,
                BOUND[dtype] if shape == GATE else None,
                timed,
            )


def providers(
    images: int, patch: int, width: int, large: int, small: int, dtype: torch.dtype, timed: str
) -> dict[str, Provider]:
    """Each returns those of [packed, d weight, d bias, d positions...] that it makes."""
    crops = [
        torch.randint(0, 256, (count * images, 3, side, side), dtype=torch.uint8, device=device())
        for count, side in ((GLOBALS, large), (LOCALS, small))
    ]
    projection = nn.Conv2d(3, width, patch, patch).to(device(), dtype)
    weight, bias = projection.weight, projection.bias
    positions = [
        (0.02 * torch.randn((side // patch) ** 2, width, device=device())).to(dtype).requires_grad_()
        for side in (large, small)
    ]
    rows = sum(len(crop) * len(table) for crop, table in zip(crops, positions, strict=True))
    upstream = torch.randn(rows, width, device=device()).to(dtype)

    def ours() -> Tensor:
        return patch_embed(crops, weight, bias, positions, mean=HALF, std=HALF)

    def chain() -> Tensor:
        groups = [
            functional.conv2d(normalised(crop, dtype), weight, bias, stride=patch).flatten(2).transpose(1, 2) + table
            for crop, table in zip(crops, positions, strict=True)
        ]
        return torch.cat([group.flatten(0, 1) for group in groups])

    found = {"silc_kernels": ours, "eager: normalise, conv2d, add, cat": chain}
    embeds = timm_embeds(projection, (large, small))
    if embeds:

        def timm() -> Tensor:
            pairs = zip(embeds, crops, positions, strict=True)
            groups = [embed(normalised(crop, dtype)) + table for embed, crop, table in pairs]
            return torch.cat([group.flatten(0, 1) for group in groups])

        found["timm PatchEmbed, add, cat"] = timm
    if device().type == "cuda" and timed != BACKWARD:
        found["torch.compile of eager"] = torch.compile(chain, dynamic=False)
    inputs = [weight, bias, *positions]
    timings = {name: TIMED[timed](embed, inputs, upstream) for name, embed in found.items()}
    return timings | {"ceiling: products alone": ceiling(crops, weight, upstream, timed)}


def timm_embeds(projection: nn.Conv2d, sides: Sequence[int]) -> list[nn.Module]:
    """timm's PatchEmbed of each side, all with this projection; none where timm is not installed."""
    layers = peer("timm.layers")
    if layers is None:
        return []
    embeds = [layers.PatchEmbed(side, projection.kernel_size[0], 3, projection.out_channels) for side in sides]
    for embed in embeds:
        embed.proj = projection
    return embeds


def both(embed: Embed, inputs: list[Tensor], upstream: Tensor) -> Provider:
    def solve() -> list[Tensor]:
        packed = embed()
        return [packed.detach(), *torch.autograd.grad(packed, inputs, upstream)]

    return solve


def forward(embed: Embed, inputs: list[Tensor], upstream: Tensor) -> Provider:
    def solve() -> list[Tensor]:
        with torch.no_grad():
            return [embed()]

    return solve


def backward(embed: Embed, inputs: list[Tensor], upstream: Tensor) -> Provider:
    packed = embed()
    return lambda: torch.autograd.grad(packed, inputs, upstream, retain_graph=True)


TIMED = {WHOLE: both, FORWARD: forward, BACKWARD: backward}


def normalised(crop: Tensor, dtype: torch.dtype) -> Tensor:
    return ((crop.float() / 255 - 0.5) / 0.5).to(dtype)


def ceiling(crops: list[Tensor], weight: Tensor, upstream: Tensor, timed: str) -> Provider:
    """The library's matrix products on ready patches: tokens, weight gradient. Returns nothing to compare."""
    patch = weight.shape[-1]
    cut = [functional.unfold(normalised(crop, weight.dtype), patch, stride=patch).transpose(1, 2) for crop in crops]
    patches = torch.cat([group.flatten(0, 1) for group in cut])
    matrix = weight.detach().flatten(1).t().contiguous()

    def products() -> list[Tensor]:
        if timed != BACKWARD:
            torch.mm(patches, matrix)
        if timed != FORWARD:
            torch.mm(upstream.t(), patches)
        return []

    return products
