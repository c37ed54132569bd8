"""Models as readers give them to writers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from silc.config import Config
from silc.interchange.source import Source
from silc.interchange.write import open_clip
from silc.model import LogitScale, build


def as_source(state: Mapping[str, Tensor], scale: LogitScale, config: Config) -> Source:
    """A model of this package, as one reads it from a checkpoint."""
    multiplier, bias = scale.effective()
    return Source(
        path=Path("nowhere"),
        kind="a checkpoint",
        model=config.model,
        weights={name: value.detach() for name, value in state.items()},
        logit_scale=multiplier.log().item(),
        logit_bias=None if bias is None else bias.item(),
        mean=config.data.mean,
        std=config.data.std,
        tokenizer=config.data.tokenizer,
        tokenizer_clean=config.data.tokenizer_clean,
    )


def varied(config: Config, kind: str = "softmax", seed: int = 1, std: float | None = 0.2) -> Source:
    """Random weights with which features differ from image to image; std: of each weight, None: as a run begins."""
    generator = torch.Generator().manual_seed(seed)
    state = {name: value for name, value in build(config).state_dict().items() if not name.startswith("head.")}
    if std is not None:
        state = {name: torch.randn(value.shape, generator=generator) * std for name, value in state.items()}
    return as_source(state, LogitScale(kind, init_scale=20.0), config)


def export(state: Mapping[str, Tensor], scale: LogitScale, config: Config, folder: Path) -> None:
    """Write a model for open_clip, without card and comparison."""
    folder.mkdir(parents=True, exist_ok=True)
    open_clip.write(as_source(state, scale, config), folder)
