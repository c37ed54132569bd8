"""Reading back what :mod:`silc.model.export` wrote: an open_clip folder to a configuration and weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from silc.config import Config, DataConfig, ModelConfig, TextConfig, ViewsConfig, VisionConfig
from silc.model.export import timm_heads

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


def is_export(folder: Path) -> bool:
    """Whether a folder looks like an open_clip export."""
    return (folder / CONFIG).is_file()


def load_export(folder: Path) -> tuple[Config, dict[str, Tensor]]:
    """The configuration that the folder describes (model, pixel statistics, tokenizer; pictures at the model's size),
    and its weights by the student's names.

    Raises ValueError for a folder that is not of this layout: no attention-pooled ViT, or a file that is missing.
    """
    described = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if not (folder / WEIGHTS).is_file():
        raise ValueError(f"{folder} has {CONFIG} but no {WEIGHTS}: export again")
    weights = load_file(folder / WEIGHTS)
    model, pixels = described["model_cfg"], described["preprocess_cfg"]
    if "visual.trunk.attn_pool.latent" not in weights:
        raise ValueError(
            f"{folder} holds no attention-pooled ViT (visual.trunk.attn_pool): launch/export.py writes them"
        )
    text = model["text_cfg"]
    config = Config(
        model=ModelConfig(vision=_vision(folder, model["vision_cfg"], weights), text=_text(text)),
        views=ViewsConfig(global_size=model["vision_cfg"]["image_size"]),
        data=DataConfig(
            mean=tuple(pixels["mean"]),
            std=tuple(pixels["std"]),
            tokenizer=str(folder) if "hf_tokenizer_name" in text else "open_clip_bpe",
        ),
    )
    return config, weights


def _vision(folder: Path, described: dict[str, Any], weights: dict[str, Tensor]) -> VisionConfig:
    """Sizes are those of the tensors; only the number of heads leaves no trace in them."""
    width, _, patch, _ = weights["visual.trunk.patch_embed.proj.weight"].shape
    own = folder / "vision" / "config.json"
    if own.is_file():
        heads = json.loads(own.read_text(encoding="utf-8"))["model_args"]["num_heads"]
    else:
        heads = timm_heads(described["timm_model_name"])
    return VisionConfig(
        image_size=math.isqrt(weights["visual.trunk.pos_embed"].shape[1]) * patch,
        patch_size=patch,
        width=width,
        depth=1 + max(int(name.split(".")[3]) for name in weights if name.startswith("visual.trunk.blocks.")),
        heads=heads,
        # Not hidden / width: 4304 / 1152 is 3.7361, which times 1152 is no integer again.
        mlp_ratio=(weights["visual.trunk.blocks.0.mlp.fc1.weight"].shape[0] + 0.5) / width,
    )


def _text(described: dict[str, Any]) -> TextConfig:
    return TextConfig(
        context_length=described["context_length"],
        vocab_size=described["vocab_size"],
        width=described["width"],
        depth=described["layers"],
        heads=described["heads"],
        mlp_ratio=described["mlp_ratio"],
    )
