"""Each kernel once, at small odd sizes, for compute-sanitizer to watch.

compute-sanitizer --tool memcheck python -m benchmarks.kernels.sanitize     from the repository's root
"""

import torch
from torch.nn import functional

from benchmarks.common.measure import device as default_device
from silc_kernels import contrastive_loss, crop_resize, distill_head_loss, distill_loss, patch_embed, photometric

TEMPS = {"student_temp": 0.1, "teacher_temp": 0.04}
HALF = (0.5, 0.5, 0.5)


def main() -> None:
    device = default_device()
    torch.manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return functional.normalize(torch.randn(*shape, device=device), dim=-1).to(torch.bfloat16)

    logits, center = random(3, 5, 1037).requires_grad_(), torch.zeros(1037, device=device)
    distill_loss(logits, random(2, 5, 1037), center, **TEMPS).backward()
    features, weight = random(3, 70, 72).requires_grad_(), random(1037, 72).requires_grad_()
    distill_head_loss(features, random(2, 70, 72), weight, random(1037, 72), center, **TEMPS).backward()
    scale, bias = (torch.tensor([value], device=device, requires_grad=True) for value in (14.0, -10.0))
    for kind in ("softmax", "sigmoid"):
        image, text = random(2, 301, 72).requires_grad_(), random(301, 72).requires_grad_()
        contrastive_loss(image, text, scale, bias, kind=kind).backward()
    crops = [
        torch.randint(0, 256, (m, 3, side, side), dtype=torch.uint8, device=device) for m, side in ((3, 64), (5, 48))
    ]
    kernel, shift = random(72, 3, 16, 16).requires_grad_(), random(72).requires_grad_()
    patch_embed(crops, kernel, shift, [random(16, 72), random(9, 72)], mean=HALF, std=HALF).float().sum().backward()
    rows = torch.tensor([[1.2, 0.8, 1.1, 0.05, 7, 0, 1.7, 1], [0.9, 1.3, 0.9, -0.1, 22, 1, 0, 0]])
    views = torch.randint(0, 256, (2, 3, 37, 41), dtype=torch.uint8, device=device)
    photometric(views, rows, inplace=True)
    pixels = torch.randint(0, 256, (3 * (61 * 43 + 5 * 9),), dtype=torch.uint8, device=device)
    offsets, sizes = torch.tensor([0, 3 * 61 * 43]), torch.tensor([[61, 43], [5, 9]])
    boxes = torch.tensor([[1, 2, 60, 41], [0, 0, 5, 9]])
    crop_resize(pixels, offsets, sizes, torch.tensor([0, 1]), boxes, torch.tensor([True, False]), 17)
    if device.type == "cuda":
        torch.cuda.synchronize()
    print("every kernel ran")


if __name__ == "__main__":
    main()
