"""Models of the sizes the tests use, and random inputs."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from silc.config import Config, HeadConfig, ModelConfig, TextConfig, VisionConfig
from silc.model import SilcModel, build


def tiny_config(**model: object) -> Config:
    """The sample preset's shape, with a smaller vocabulary and head."""
    return Config(
        model=ModelConfig(
            vision=VisionConfig(image_size=64, patch_size=8, width=128, depth=3, heads=4),
            text=TextConfig(context_length=16, vocab_size=600, width=96, depth=3, heads=3),
            head=HeadConfig(prototypes=320, hidden=192, bottleneck=48),
            **model,
        )
    )


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(11)


@pytest.fixture
def config() -> Config:
    return tiny_config()


@pytest.fixture
def model(config: Config) -> SilcModel:
    return build(config)


@pytest.fixture
def pixels() -> Callable[..., Tensor]:
    """Random uint8 of a shape, the same in every run."""
    generator = torch.Generator().manual_seed(5)
    return lambda *shape: torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def as_float(crops: Tensor) -> Tensor:
    """What open_clip and timm get: pixels on [-1, 1]."""
    return crops.to(torch.float32) / 255 * 2 - 1
