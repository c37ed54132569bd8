"""The weights of any model that can be begun from, evaluated or exported: of this package's runs, or of others."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from silc.config import ModelConfig
from silc.interchange.read import is_readable, read
from silc.interchange.source import Source
from silc.train import checkpoint

Name = Literal["student", "teacher"]


def read_weights(path: str | Path, model: Name = "student", *, sizes: ModelConfig | None = None) -> Source:
    """A model from a run folder (its newest checkpoint), a checkpoint, an export, or a file or folder of another
    library.

    Args:
        path: of the file or folder.
        model: student, or teacher: the image tower and head of the teacher beside the student's text tower.
        sizes: as for :func:`silc.interchange.read.read`.

    Raises:
        ValueError: none of these, a damaged file, or no teacher there; the message says which.
    """
    place = Path(path)
    if is_readable(place):
        if model == "teacher":
            raise ValueError(f"{place} holds one model; take the student, or a run folder")
        return read(place, sizes=sizes)
    found = checkpoint.find(place, or_export=True, only=checkpoint.WEIGHTS)
    config, scale = checkpoint.load_config_and_scale(found)
    weights = checkpoint.load_weights(found, "student")
    if model == "teacher":
        weights |= checkpoint.load_teacher_tower(found)
    multiplier, bias = scale.effective()
    return Source(
        path=found,
        kind="a checkpoint",
        model=config.model,
        weights=weights,
        logit_scale=math.log(multiplier.item()),
        logit_bias=None if bias is None else bias.item(),
        mean=config.data.mean,
        std=config.data.std,
        tokenizer=config.data.tokenizer,
        tokenizer_clean=config.data.tokenizer_clean,
    )
