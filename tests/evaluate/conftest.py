"""A tiny model and tiny evaluation shards."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset as wds
from PIL import Image

from silc.config import Config, DataConfig, EvalConfig, HeadConfig, ModelConfig, TextConfig, ViewsConfig, VisionConfig
from silc.distributed import World
from silc.model import SilcModel, build

NAMES = [f"thing {number}" for number in range(7)]


@pytest.fixture
def config() -> Config:
    return Config(
        model=ModelConfig(
            vision=VisionConfig(image_size=16, patch_size=8, width=32, depth=2, heads=2),
            text=TextConfig(context_length=8, width=32, depth=2, heads=2),
            head=HeadConfig(prototypes=16, hidden=32, bottleneck=8),
        ),
        views=ViewsConfig(global_size=16, local_size=8),
        data=DataConfig(workers=0),
        eval=EvalConfig(batch=4, templates=["{}", "a {}", "a drawing of {}"]),
    )


@pytest.fixture
def model(config: Config) -> SilcModel:
    """With weights spread enough that pictures differ."""
    model = build(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture
def world() -> World:
    return World(0, 1, torch.device("cpu"))


@pytest.fixture
def shards(tmp_path: Path) -> Callable[..., list[str]]:
    """Write a shard with one picture for each of the given classes (None: no class)."""

    def write(classes: list[int | None], captions: bool = True) -> list[str]:
        path = tmp_path / "eval.tar"
        with wds.TarWriter(str(path)) as writer:
            for number, label in enumerate(classes):
                pixels = np.random.default_rng([7, number]).integers(0, 256, (16, 16, 3)).astype(np.uint8)
                encoded = io.BytesIO()
                Image.fromarray(pixels).save(encoded, "png")
                info = {} if label is None else {"class": label}
                sample = {"__key__": f"{number:03}", "png": encoded.getvalue(), "json": json.dumps(info).encode()}
                writer.write(sample | ({"txt": f"picture {number}"} if captions else {}))
        return [str(path)]

    return write
