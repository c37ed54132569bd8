"""Export to open_clip: a folder that `open_clip.create_model_and_transforms("local-dir:<folder>")` loads.

    open_clip_config.json          {"model_cfg", "preprocess_cfg"}
    open_clip_model.safetensors    visual.trunk.*, text.*, logit_scale, logit_bias
    vision/config.json             the image tower's sizes, where timm has no model of that name

Parameter names and arithmetic are open_clip's already, so tensors are copied as they are. A Hugging Face tokenizer's
files have to be put into the folder too: open_clip looks for them there and nowhere else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from silc.config import Config, TextConfig, VisionConfig
from silc.files import replacing, write_text
from silc.model.layers import NORM_EPS
from silc.model.scale import LogitScale

_BASE = "vit_base_patch16_siglip_256"
# (patch, width, depth, heads, mlp_ratio) -> timm's name without the image size, and the image sizes it has with exact
# GELU (vit_large_patch16_siglip_512 and all of vit_so400m_patch16_siglip use the tanh approximation).
_TIMM_NAMES: dict[tuple[int, int, int, int, float], tuple[str, tuple[int, ...]]] = {
    (16, 768, 12, 12, 4.0): ("vit_base_patch16_siglip", (224, 256, 384, 512)),
    (16, 1024, 24, 16, 4.0): ("vit_large_patch16_siglip", (256, 384)),
    (14, 1152, 27, 16, 3.7362): ("vit_so400m_patch14_siglip", (224, 378)),
}


def export(state: Mapping[str, Tensor], scale: LogitScale, config: Config, folder: Path) -> None:
    """Write the export folder (made if missing).

    Args:
        state: a :class:`silc.model.SilcModel`'s state dict, whole tensors; the distillation head is left out.
        scale: the logits' scale and bias; the scale is written within its limit, both as 0-dimensional tensors.
        config: the run's configuration.
        folder: target. Where timm has no model of the tower's size, the config holds this folder's absolute path,
            because open_clip passes nothing but a name on to timm: export again after moving it.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    vision = config.model.vision
    name = timm_name(vision)
    if name is None:
        trunk = folder / "vision"
        trunk.mkdir(exist_ok=True)
        _write_json(trunk / "config.json", _timm_config(vision))
        name = f"local-dir:{trunk}"
    _write_json(folder / "open_clip_config.json", open_clip_config(config, name))
    tensors = {key: _plain(value) for key, value in state.items() if key.startswith(("visual.", "text."))}
    tensors["logit_scale"] = _plain(scale.logit_scale[0].clamp(max=math.log(scale.max_scale)))
    if scale.logit_bias is not None:
        tensors["logit_bias"] = _plain(scale.logit_bias[0])
    with replacing(folder / "open_clip_model.safetensors") as file:
        save_file(tensors, file, metadata={"format": "pt"})


def timm_name(vision: VisionConfig) -> str | None:
    """timm's name for an image tower of these sizes, or None if it has none."""
    sizes = (vision.patch_size, vision.width, vision.depth, vision.heads, vision.mlp_ratio)
    stem, images = _TIMM_NAMES.get(sizes, ("", ()))
    return f"{stem}_{vision.image_size}" if vision.image_size in images else None


def timm_heads(name: str) -> int:
    """Attention heads of a tower that :func:`timm_name` named. Raises ValueError for another name."""
    for (_, _, _, heads, _), (stem, images) in _TIMM_NAMES.items():
        if name in [f"{stem}_{image}" for image in images]:
            return heads
    raise ValueError(f"the image tower {name!r} is not one that launch/export.py writes")


def open_clip_config(config: Config, timm_model_name: str) -> dict[str, Any]:
    """open_clip's description of the model and of its preprocessing."""
    vision = config.model.vision
    model: dict[str, Any] = {
        "embed_dim": vision.width,
        "custom_text": True,
        "vision_cfg": {
            "image_size": vision.image_size,
            "timm_model_name": timm_model_name,
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": _text_config(config.model.text, config.data.tokenizer),
    }
    if config.objective.contrastive == "sigmoid":
        model["init_logit_bias"] = config.objective.init_bias
    preprocess = {
        "size": vision.image_size,
        "mode": "RGB",
        "mean": list(config.data.mean),
        "std": list(config.data.std),
        "interpolation": "bicubic",
        "resize_mode": "squash",
    }
    return {"model_cfg": model, "preprocess_cfg": preprocess}


def _text_config(text: TextConfig, tokenizer: str) -> dict[str, Any]:
    described = {
        "context_length": text.context_length,
        "vocab_size": text.vocab_size,
        "width": text.width,
        "heads": text.heads,
        "layers": text.depth,
        "mlp_ratio": text.mlp_ratio,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": NORM_EPS},
    }
    if tokenizer != "open_clip_bpe":
        described["hf_tokenizer_name"] = tokenizer
    return described


def _timm_config(vision: VisionConfig) -> dict[str, Any]:
    """timm's config.json: a named model of the family, with its sizes replaced."""
    return {
        "architecture": _BASE,
        "num_classes": 0,
        "model_args": {
            "img_size": vision.image_size,
            "patch_size": vision.patch_size,
            "embed_dim": vision.width,
            "depth": vision.depth,
            "num_heads": vision.heads,
            "mlp_ratio": vision.mlp_ratio,
        },
        "pretrained_cfg": {"input_size": [3, vision.image_size, vision.image_size], "num_classes": 0},
    }


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().to(device="cpu", dtype=torch.float32).contiguous().clone()


def _write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")
