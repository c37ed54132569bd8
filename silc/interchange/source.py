"""What a reader found: weights under this package's names, and all that the files say of the model they belong to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torch import Tensor

from silc.config import Config, DataConfig, ModelConfig, ObjectiveConfig, ViewsConfig

Rgb = tuple[float, float, float]
Clean = Literal["auto", "whitespace", "lower", "canonicalize"]
# Whose resizing of position tables is meant: each library has its own.
Resize = Literal["timm", "hugging_face", "big_vision"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model of another library, or of this one, as it was read.

    Attributes:
        path: the file or folder.
        kind: what it is, in words: "an open_clip folder", "a checkpoint of this package".
        model: the sizes that the weights have; the head's are the configuration's defaults where there is no head.
        weights: under the names of :class:`silc.model.SilcModel` (`visual.*`, `text.*`, perhaps `head.*`), fp32, on
            the CPU, each checked to have the shape that `model` asks for.
        logit_scale: logarithm of the logits' multiplier; None where the files have none.
        logit_bias: bias of the logits of a model trained with the sigmoid loss; None: it was trained with the softmax.
        mean, std: of pixels on [0, 1]; None where the files do not say.
        tokenizer: `data.tokenizer` that fits the text tower; None where the files do not say.
        tokenizer_clean: `data.tokenizer_clean` that goes with it.
        resize: how its library resizes the position table of images.
        assumed: what the files do not say and was taken as usual, or what is done in another way here: the key of the
            configuration that it concerns -> the value and the reason.
        ignored: names of tensors in the files that have no place here.
    """

    path: Path
    kind: str
    model: ModelConfig
    weights: Mapping[str, Tensor]
    logit_scale: float | None = None
    logit_bias: float | None = None
    mean: Rgb | None = None
    std: Rgb | None = None
    tokenizer: str | None = None
    tokenizer_clean: Clean = "auto"
    resize: Resize = "timm"
    assumed: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    def config(self) -> Config:
        """A configuration of this model: its sizes, pixel statistics, tokenizer and kind of contrastive loss, images of
        its size, and a limit of the logits' multiplier that leaves it as it is; the rest as by default.

        Raises pydantic's ValidationError, a ValueError, for sizes beyond the limits of :mod:`silc.config`.
        """
        objective = ObjectiveConfig(contrastive="softmax" if self.logit_bias is None else "sigmoid")
        if self.logit_scale is not None:  # SigLIP's multipliers are about 118
            objective.max_scale = max(objective.max_scale, math.ceil(math.exp(self.logit_scale)))
        data = DataConfig(tokenizer_clean=self.tokenizer_clean)
        data.mean, data.std = self.mean or data.mean, self.std or data.std
        data.tokenizer = self.tokenizer or data.tokenizer
        return Config(
            model=self.model,
            views=ViewsConfig(global_size=self.model.vision.image_size),
            objective=objective,
            data=data,
        )
