"""The weights of any model that can be begun from, evaluated or exported: of this package's runs, or of others."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import torch

from silc.config import ModelConfig
from silc.interchange.assemble import check_sizes
from silc.interchange.read import is_readable, read
from silc.interchange.shapes import misfit, shapes_of
from silc.interchange.source import Source
from silc.train import checkpoint

Name = Literal["student", "teacher"]


def place_of(path: str | Path) -> Path:
    """The file, folder or checkpoint itself that a path names: of a run folder its newest checkpoint. Raises ValueError
    as :func:`read_weights`.
    """
    place = Path(path)
    return place if is_readable(place) else checkpoint.find(place, or_export=True, only=checkpoint.WEIGHTS)


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
    place = place_of(path)
    if is_readable(place):
        if model == "teacher":
            raise ValueError(f"{place} is no run and holds one model; take the student, or a run folder")
        return read(place, sizes=sizes)
    config, scale = checkpoint.load_config_and_scale(place)
    weights = checkpoint.load_weights(place, "student")
    if model == "teacher":
        checkpoint.load_teacher_tower(place)  # there may be none
        weights |= checkpoint.load_weights(place, "teacher")
    check_sizes(config.model, weights, place)  # before a model of these sizes is laid out
    wrong = misfit(weights, shapes_of(config.model, with_head=config.objective.distill))
    if wrong is not None:
        raise ValueError(f"checkpoint {place} does not fit its configuration: {wrong}; take an older checkpoint")
    for name, value in weights.items():  # else they are the file itself, mapped, for as long as anything holds them
        weights[name] = value.to(torch.float32, copy=True)
    return Source(
        path=place,
        kind="a checkpoint",
        model=config.model,
        weights=weights,
        logit_scale=min(scale.logit_scale.item(), math.log(scale.max_scale)),
        logit_bias=None if scale.logit_bias is None else scale.logit_bias.item(),
        mean=config.data.mean,
        std=config.data.std,
        tokenizer=config.data.tokenizer,
        tokenizer_clean=config.data.tokenizer_clean,
    )


def needs_tokenizer(source: Source, key: str) -> str:
    """The refusal of weights that do not say which tokenizer they were trained with, where `key` can say it."""
    rows = source.model.text.vocab_size
    return (
        f"{source.path} does not say which tokenizer its text tower of {rows} tokens was trained with; give "
        f"{key}=FOLDER of a Hugging Face tokenizer (of SigLIP's first models: timm/ViT-B-16-SigLIP), or open_clip_bpe"
    )
