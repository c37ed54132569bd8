"""Tiny shards and configurations for the tests of silc.data."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds
from PIL import Image

from silc.config import Config, DataConfig, TrainConfig, ViewsConfig
from tests.storage.fixtures import faulty_s3, s3, s3rver, web  # noqa: F401 - fixtures


def encode(pixels: np.ndarray, kind: str = "jpeg", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def make_sample(shard: int, number: int) -> dict:
    rng = np.random.default_rng([shard, number])
    pixels = np.kron(rng.integers(0, 256, (4, 4, 3)), np.ones((10, 8, 1))).astype(np.uint8)
    return {
        "__key__": f"{number:04}",
        "jpg": encode(pixels),
        "txt": f"thing {shard} {number}",
        "json": json.dumps({"shard": shard, "number": number}).encode(),
    }


@pytest.fixture
def write_shards(tmp_path: Path) -> Callable[..., list[str]]:
    """Write shards of the given sample counts; `change` may alter a sample (by shard, number, sample)."""

    def write(
        counts: list[int], change: Callable[[int, int, dict], None] = lambda *_: None, name: str = "set"
    ) -> list[str]:
        folder = tmp_path / name
        folder.mkdir()
        for shard, count in enumerate(counts):
            with wds.TarWriter(str(folder / f"{shard:03}.tar")) as writer:
                for number in range(count):
                    sample = make_sample(shard, number)
                    change(shard, number, sample)
                    writer.write(sample)
        return [str(folder)]

    return write


@pytest.fixture
def make_config() -> Callable[..., Config]:
    """A small run on given shards; keywords go to the section that has them."""

    def make(shards: list[str], batch: int = 8, seed: int = 0, views: dict | None = None, **data) -> Config:
        data = {"workers": 0, "shuffle_block": 16} | data
        sizes = {"n_local": 2, "global_size": 16, "local_size": 8} | (views or {})
        return Config(
            data=DataConfig(shards=shards, **data),
            views=ViewsConfig(**sizes),
            train=TrainConfig(global_batch=batch, seed=seed),
        )

    return make
