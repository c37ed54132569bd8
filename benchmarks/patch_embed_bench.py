"""Multi-crop patch embedding against eager torch and timm: correct first, then time and peak memory.

    python benchmarks/patch_embed_bench.py

Forward and backward, float32, from byte crops to one packed sequence, 2 global and 8 local crops an image. Peak memory
includes the packed result and the gradients, the same for all.
"""

import torch
from measure import banner, compare, device, gate, show
from timm.layers import PatchEmbed
from torch import Tensor
from torch.nn import functional

from silc_kernels import patch_embed

# images, patch, width, global side, local side; repeats
SIZES = {
    "cpu": [(64, 8, 128, 64, 32, 9), (16, 16, 768, 256, 96, 7)],
    "cuda": [(16, 16, 768, 256, 96, 20), (256, 16, 768, 256, 96, 20)],
}
GATE = (2, 8, 64, 64, 32)
HALF = (0.5, 0.5, 0.5)
BOUND = 1e-5


def providers(images: int, patch: int, width: int, large: int, small: int):
    """Each returns [packed, d weight, d bias, d positions...]."""
    crops = [
        torch.randint(0, 256, (count * images, 3, side, side), dtype=torch.uint8, device=device())
        for count, side in ((2, large), (8, small))
    ]
    peers = [PatchEmbed(side, patch, 3, width).to(device()) for side in (large, small)]
    peers[1].proj = peers[0].proj
    weight, bias = peers[0].proj.weight, peers[0].proj.bias
    positions = [(0.02 * torch.randn(peer.num_patches, width, device=device())).requires_grad_() for peer in peers]
    rows = sum(len(crop) * len(table) for crop, table in zip(crops, positions, strict=True))
    upstream = torch.randn(rows, width, device=device())

    def solve(packed: Tensor) -> list[Tensor]:
        return [packed.detach(), *torch.autograd.grad(packed, [weight, bias, *positions], upstream)]

    def normalised(crop: Tensor) -> Tensor:
        return (crop.float() / 255 - 0.5) / 0.5

    def eager() -> list[Tensor]:
        groups = [
            functional.conv2d(normalised(crop), weight, bias, stride=patch).flatten(2).transpose(1, 2) + table
            for crop, table in zip(crops, positions, strict=True)
        ]
        return solve(torch.cat([group.flatten(0, 1) for group in groups]))

    def timm() -> list[Tensor]:
        groups = [peer(normalised(crop)) + table for peer, crop, table in zip(peers, crops, positions, strict=True)]
        return solve(torch.cat([group.flatten(0, 1) for group in groups]))

    return {
        "silc_kernels": lambda: solve(patch_embed(crops, weight, bias, positions, mean=HALF, std=HALF)),
        "eager: normalise, conv2d, add, cat": eager,
        "timm PatchEmbed, add, cat": timm,
    }


def main() -> None:
    torch.manual_seed(0)
    print(banner())
    ours, *peers = providers(*GATE).values()
    for peer in peers:
        gate("patch_embed", ours(), peer(), BOUND)
    for *shape, repeats in SIZES[device().type]:
        images, patch, width, large, small = shape
        title = f"patch_embed {images} images x (2 x {large}^2 + 8 x {small}^2) patch {patch} width {width}"
        show(title, compare(providers(*shape), repeats))


if __name__ == "__main__":
    main()
