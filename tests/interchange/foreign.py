"""Small models of other libraries, made by those libraries, with weights of which each has an influence."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import silc.model.timm_tower  # noqa: F401  # gives timm the towers' names
from silc.interchange.source import Source
from silc.model import SilcModel
from silc.model.vision import Pixels

TOWER = "silc_vit.image48_patch8_width64_depth2_heads2_mlp160"
MODEL_CFG: dict[str, Any] = {
    "embed_dim": 64,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {
        "image_size": 48,
        "timm_model_name": TOWER,
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
    },
    "text_cfg": {
        "context_length": 12,
        "vocab_size": 90,
        "width": 48,
        "heads": 3,
        "layers": 2,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": 1e-6},
    },
}
PREPROCESS_CFG = {
    "mean": [0.4, 0.5, 0.6],
    "std": [0.5, 0.6, 0.7],
    "interpolation": "bicubic",
    "resize_mode": "squash",
}


def shaken(model: nn.Module) -> nn.Module:
    """With every parameter away from zero and one: a fresh model's attention is even, and its biases have no effect."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def changed(tree: dict[str, Any], dotted: str, value: object) -> dict[str, Any]:
    """A copy of a tree of fields with one of them replaced, or made; None removes it."""
    tree = copy.deepcopy(tree)
    *parents, last = dotted.split(".")
    inside = tree
    for name in parents:
        inside = inside.setdefault(name, {})
    inside[last] = value
    if value is None:
        del inside[last]
    return tree


def open_clip_model(model_cfg: dict[str, Any] = MODEL_CFG) -> nn.Module:
    """open_clip's own model of a description."""
    plain = copy.deepcopy(model_cfg)
    kind = open_clip.CustomTextCLIP if plain.pop("custom_text") else open_clip.CLIP
    return shaken(kind(**plain))


def write_open_clip(folder: Path, model_cfg: dict[str, Any] = MODEL_CFG, **preprocess: object) -> nn.Module:
    """A folder that open_clip loads, and its model."""
    model = open_clip_model(model_cfg)
    folder.mkdir(exist_ok=True, parents=True)
    described = {"model_cfg": model_cfg, "preprocess_cfg": PREPROCESS_CFG | preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(described))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return model


def ours(source: Source) -> SilcModel:
    """The model here, with a source's weights."""
    pixels = Pixels(source.mean or (0.5,) * 3, source.std or (0.5,) * 3)
    model = SilcModel(source.model, pixels=pixels, with_head=False)
    model.load_state_dict(dict(source.weights))
    return model.eval()


def inputs(source: Source, count: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Crops, uint8; the same normalised with the source's mean and deviation; tokens."""
    generator = torch.Generator().manual_seed(4)
    size, text = source.model.vision.image_size, source.model.text
    crops = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    mean, std = (torch.tensor(of or (0.5,) * 3).view(3, 1, 1) for of in (source.mean, source.std))
    tokens = torch.randint(0, text.vocab_size, (count, text.context_length), generator=generator)
    return crops, (crops / 255 - mean) / std, tokens


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    """To 1e-5 in fp32."""
    assert ours.std() > 1e-2
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
