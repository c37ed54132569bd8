"""Export to open_clip: a folder that `open_clip.create_model_and_transforms("local-dir:<folder>")` loads.

    open_clip_config.json          {"model_cfg", "preprocess_cfg"}
    open_clip_model.safetensors    visual.trunk.*, text.*, logit_scale, logit_bias
    vision/config.json             the image tower's sizes for timm, where timm has no model of that name

The folder can be moved and copied: nothing in it names a place. Where timm has no model of the tower's size, open_clip
builds it after `import silc.model.timm_tower`. A program without this package gives the tower's folder itself:

    vision = json.load(open("exported/open_clip_config.json"))["model_cfg"]["vision_cfg"]
    vision["timm_model_name"] = "local-dir:exported/vision"
    model = open_clip.create_model("local-dir:exported", vision_cfg=vision)

Parameter names and arithmetic are open_clip's already, so tensors are copied unchanged. A Hugging Face tokenizer's
files have to be put into the folder too: open_clip looks for them there and nowhere else.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from silc.config import Config, TextConfig, VisionConfig
from silc.files import replacing, write_text
from silc.interchange.timm_names import timm_name
from silc.model.layers import NORM_EPS
from silc.model.scale import LogitScale
from silc.model.timm_tower import BASE, timm_arguments, tower_name


def export(state: Mapping[str, Tensor], scale: LogitScale, config: Config, folder: Path) -> None:
    """Write the export folder (made if missing).

    Args:
        state: a :class:`silc.model.SilcModel`'s state dict, whole tensors; the distillation head is left out.
        scale: the logits' scale and bias; the scale is written within its limit, both as 0-dimensional tensors.
        config: the run's configuration.
        folder: target; an earlier export there is replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vision = config.model.vision
    name, trunk = timm_name(vision), folder / "vision"
    if name is None:
        name = tower_name(vision)
        trunk.mkdir(exist_ok=True)
        _write_json(trunk / "config.json", _timm_config(vision))
    elif trunk.is_dir():
        shutil.rmtree(trunk)  # of an earlier export
    _write_json(folder / "open_clip_config.json", open_clip_config(config, name))
    tensors = {key: _plain(value) for key, value in state.items() if key.startswith(("visual.", "text."))}
    tensors["logit_scale"] = _plain(scale.logit_scale[0].clamp(max=math.log(scale.max_scale)))
    if scale.logit_bias is not None:
        tensors["logit_bias"] = _plain(scale.logit_bias[0])
    with replacing(folder / "open_clip_model.safetensors") as file:
        save_file(tensors, file, metadata={"format": "pt"})


def loading_call(config: Config, folder: Path) -> str:
    """The Python that loads an export with open_clip, for a message."""
    modules = "open_clip" if timm_name(config.model.vision) else "open_clip, silc.model.timm_tower"
    place = repr(f"local-dir:{folder}")
    return f"import {modules}; model, _, preprocess = open_clip.create_model_and_transforms({place})"


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
        "architecture": BASE,
        "num_classes": 0,
        "model_args": timm_arguments(vision),
        "pretrained_cfg": {"input_size": [3, vision.image_size, vision.image_size], "num_classes": 0},
    }


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().to(device="cpu", dtype=torch.float32).contiguous().clone()


def _write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")
