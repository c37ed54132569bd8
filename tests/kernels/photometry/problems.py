"""Views and rows of parameters that meet every step, alone and with others."""

import torch
from torch import Tensor

NEUTRAL = (1.0, 1.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0)


def views(*shape: int, seed: int = 1) -> Tensor:
    """uint8 [n, 3, H, W]: noise, every third view pale, a few pixels grey, black and white."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    found[::3] = found[::3] // 4 + 80
    found[..., :2, :2] = found[:, :1, :2, :2]
    found[..., -1, -1], found[..., -1, 0] = 255, 0
    return found


def rows(count: int, seed: int = 2) -> Tensor:
    """float32 [count, 8]: each order in turn, and none; every other step drawn."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: float, high: float) -> Tensor:
        return torch.rand(count, generator=generator) * (high - low) + low

    def coin(chance: float) -> Tensor:
        return (draw(0, 1) < chance).float()

    factors = [draw(0.6, 1.4), draw(0.6, 1.4), draw(0.8, 1.2), draw(-0.1, 0.1)]
    order = torch.arange(count) % 25 - 1.0
    return torch.stack([*factors, order, coin(0.3), coin(0.6) * draw(0.1, 2.0), coin(0.3)], 1)


def row(**changed: float) -> Tensor:
    """float32 [1, 8]: nothing but what is given."""
    names = ("brightness", "contrast", "saturation", "hue", "order", "grey", "sigma", "solarize")
    assert changed.keys() <= set(names)
    return torch.tensor([[changed.get(name, value) for name, value in zip(names, NEUTRAL, strict=True)]])


def differing(actual: Tensor, expected: Tensor) -> float:
    """The share of levels that differ; none may by more than one."""
    apart = (actual.cpu().int() - expected.cpu().int()).abs()
    assert int(apart.max()) <= 1, f"levels differ by {int(apart.max())}"
    return float((apart > 0).double().mean())
