"""A tiny model, tiny evaluation shards, and splits in memory."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset as wds
from PIL import Image
from torch import Tensor

from silc.config import Config, DataConfig, EvalConfig, HeadConfig, ModelConfig, TextConfig, ViewsConfig, VisionConfig
from silc.data.shards import Unreadable
from silc.data.splits import DataSet
from silc.distributed import World
from silc.evaluate.segmentation.windows import Geometry
from silc.evaluate.sharding import Job
from silc.evaluate.towers import Scale, Towers, build_towers
from silc.model import SilcModel, build

NAMES = tuple(f"thing {number}" for number in range(7))


class Memory:
    """A split of given images; None: one that cannot be read."""

    upright = False

    def __init__(self, images, labels=None, captions=None, masks=None, title="in memory") -> None:
        self.title = title
        self._images, self._labels, self._captions, self._masks = images, labels, captions, masks
        known = {"labels": labels, "captions": captions, "masks": masks}
        self.has = frozenset(name for name, values in known.items() if values is not None)

    def __len__(self) -> int:
        return len(self._images)

    def key(self, number: int) -> str:
        return f"memory/{number}"

    def image(self, number: int, upright: bool | None = None) -> Tensor:
        if self._images[number] is None:
            raise Unreadable("undecodable image")
        return self._images[number]

    def orientation(self, number: int) -> int:
        return 1

    def label(self, number: int) -> int | None:
        return None if self._labels is None else self._labels[number]

    def captions(self, number: int) -> list[str]:
        return [] if self._captions is None else self._captions[number]

    def mask(self, number: int) -> Tensor:
        return self._masks[number]


def random_images(count: int, height: int = 16, width: int = 16, seed: int = 0) -> list[Tensor]:
    """Blocks of random colours, so that resizing leaves something."""
    rng = np.random.default_rng(seed)
    rows, columns = -(-height // 4), -(-width // 4)
    blocks = [np.kron(rng.integers(0, 256, (rows, columns, 3)), np.ones((4, 4, 1))) for _ in range(count)]
    return [torch.from_numpy(block[:height, :width].astype(np.uint8)) for block in blocks]


def numbered_images(count: int, side: int = 16) -> list[Tensor]:
    """Images of one color, which is their number."""
    return [torch.full((side, side, 3), number, dtype=torch.uint8) for number in range(count)]


def of_number(values: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
    """A stand-in for a model: whole numbered images, [n, 3, side, side] -> their values, stacked."""
    return lambda crops: torch.stack([values[int(crop[0, 0, 0])] for crop in crops])


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
    """With weights spread enough that images differ."""
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
def towers(config: Config, model: SilcModel) -> Towers:
    """The student to be measured."""
    scale = Scale(14.0, None)
    (student,) = build_towers(config, model.state_dict(), {}, torch.device("cpu"), torch.float32, scale)
    return student


@pytest.fixture
def job(config: Config, world: World) -> Job:
    return Job(config, world, "a task, student")


@pytest.fixture
def whole(job: Job) -> Job:
    """Segmentation of whole images of 16 x 16 pixels."""
    job.geometry = Geometry(short_side=16, window=0, stride=16, batch=4)
    return job


@pytest.fixture
def segmented() -> DataSet:
    """Images with a coloured square and their masks: the class is the colour. One in 4 unseen: yellow."""
    colours = torch.tensor([[250, 20, 20], [20, 250, 20], [20, 20, 250], [240, 240, 20]], dtype=torch.uint8)

    def split(count: int, seed: int) -> Memory:
        rng = np.random.default_rng(seed)
        images, masks = [], []
        for number in range(count):
            image = torch.full((32, 32, 3), 128, dtype=torch.uint8)
            mask = torch.full((32, 32), -1, dtype=torch.int64)
            top, left = rng.integers(0, 2, 2) * 8
            window = (slice(top, top + 16), slice(left, left + 16))
            image[window], mask[window] = colours[number % 4], number % 4
            images.append(image)
            masks.append(mask)
        return Memory(images, masks=masks, title=f"split {seed}")

    return DataSet("coloured squares", ("red", "green", "blue", "yellow"), split(8, 0), split(16, 1))


@pytest.fixture
def shards(tmp_path: Path) -> Callable[..., list[str]]:
    """Write a shard with one image for each of the given classes (None: no class)."""

    def write(classes: list[int | None], captions: bool = True) -> list[str]:
        path = tmp_path / "eval.tar"
        with wds.TarWriter(str(path)) as writer:
            for number, label in enumerate(classes):
                pixels = np.random.default_rng([7, number]).integers(0, 256, (16, 16, 3)).astype(np.uint8)
                encoded = io.BytesIO()
                Image.fromarray(pixels).save(encoded, "png")
                info = {} if label is None else {"class": label}
                sample = {"__key__": f"{number:03}", "png": encoded.getvalue(), "json": json.dumps(info).encode()}
                writer.write(sample | ({"txt": f"image {number}"} if captions else {}))
        return [str(path)]

    return write
