"""What all writers need."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from silc.config import DataConfig
from silc.files import replacing, write_text
from silc.interchange.shapes import misfit, shapes_of
from silc.interchange.source import Rgb, Source
from silc.model import SilcModel
from silc.model.vision import Pixels


def write_json(path: Path, value: object) -> None:
    """Write a JSON file for people, whole or not at all. Raises OSError."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as fp32 to a safetensors file, whole or not at all. Raises OSError."""
    with replacing(path) as file:
        save_file({name: plain(value) for name, value in tensors.items()}, file, metadata={"format": "pt"})


def plain(tensor: Tensor) -> Tensor:
    """The values in fp32 on the CPU, in memory of their own."""
    return tensor.detach().to(device="cpu", dtype=torch.float32, copy=True).contiguous()


def scale_of(source: Source) -> tuple[float, float | None]:
    """Logarithm of the logits' multiplier, and their bias (None for the softmax loss).

    Raises ValueError where the source has none.
    """
    if source.logit_scale is None:
        raise ValueError(f"{source.path} has no logit scale; only its image tower can be exported (--to timm)")
    return source.logit_scale, source.logit_bias


def pixel_statistics(source: Source) -> tuple[Rgb, Rgb]:
    """Mean and standard deviation of pixels on [0, 1]; this package's defaults where the source does not say."""
    data = DataConfig()
    return source.mean or data.mean, source.std or data.std


def towers(source: Source) -> SilcModel:
    """The model of a source, in eval mode, its weights shared with the source's.

    Raises ValueError for weights that do not fit its sizes, naming the first that does not.
    """
    wrong = misfit(source.weights, shapes_of(source.model, with_head=False))
    if wrong is not None:
        raise ValueError(f"{source.path}: the weights do not fit the sizes: {wrong}")
    sizes = replace(source.model, attention="sdpa", checkpoint_activations=False, compile=False)
    mean, std = pixel_statistics(source)
    with torch.device("meta"):  # no memory and no random numbers for initial weights
        model = SilcModel(sizes, pixels=Pixels(mean, std), with_head=False)
    model.load_state_dict({name: source.weights[name].float() for name in model.state_dict()}, assign=True)
    return model.requires_grad_(False).eval()
