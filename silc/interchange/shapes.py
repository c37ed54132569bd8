"""Names and shapes of a model's parameters, found without making them, and weights compared with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from silc.config import ModelConfig
from silc.model import SilcModel


def shapes_of(model: ModelConfig, *, with_head: bool) -> dict[str, torch.Size]:
    """Name -> shape of the parameters of :class:`silc.model.SilcModel` for these sizes; no memory is taken."""
    plain = dataclasses.replace(model, attention="auto", compile=False, checkpoint_activations=False)
    with torch.device("meta"):
        return {name: value.shape for name, value in SilcModel(plain, with_head=with_head).state_dict().items()}


def misfit(weights: Mapping[str, Tensor], wanted: Mapping[str, torch.Size]) -> str | None:
    """The first tensor that is missing or has another shape, in words; None where all fit. Others are not looked at."""
    for name, shape in wanted.items():
        if name not in weights:
            return f"{name} is missing"
        if weights[name].shape != shape:
            return f"{name} has shape {list(weights[name].shape)}, not {list(shape)}"
    return None


def hidden_width(width: int, ratio: float) -> int:
    """Hidden width of an MLP, as the towers compute it."""
    return int(width * ratio)


def mlp_ratio(width: int, hidden: int) -> float:
    """The shortest ratio that gives a hidden width back, see :func:`hidden_width`."""
    short = [round(hidden / width, digits) for digits in range(1, 7)]
    # hidden / width itself may fall short of it by rounding: 4304 / 1152 times 1152 is less than 4304.
    return next(ratio for ratio in [*short, (hidden + 0.5) / width] if ratio > 0 and int(width * ratio) == hidden)
