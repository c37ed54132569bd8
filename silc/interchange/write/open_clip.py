"""Export to open_clip: a folder that `open_clip.create_model_and_transforms("local-dir:<folder>")` loads.

    open_clip_config.json          {"model_cfg", "preprocess_cfg"}
    open_clip_model.safetensors    visual.trunk.*, text.*, logit_scale, logit_bias
    vision/config.json             the image tower's sizes for timm, where timm has no model of that name
    tokenizer.json, ...            a Hugging Face tokenizer's files, where the model has one

The folder can be moved and copied: nothing in it names a place. Where timm has no model of the tower's size, open_clip
builds it after `import silc.model.timm_tower`. A program without this package gives the tower's folder itself:

    vision = json.load(open("exported/open_clip_config.json"))["model_cfg"]["vision_cfg"]
    vision["timm_model_name"] = "local-dir:exported/vision"
    model = open_clip.create_model("local-dir:exported", vision_cfg=vision)

Parameter names and arithmetic are open_clip's already, so tensors are copied unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from silc.config import TextConfig, VisionConfig
from silc.interchange.source import Source
from silc.interchange.timm_names import timm_name
from silc.interchange.write.common import pixel_statistics, scale_of, write_json, write_weights
from silc.interchange.write.tokenizer import write_for_open_clip
from silc.model.layers import NORM_EPS
from silc.model.timm_tower import BASE, timm_arguments, tower_name


def write(source: Source, folder: Path) -> None:
    """Write the files into a folder, which exists.

    Args:
        source: the distillation head is left out. Scale and bias are written as 0-dimensional tensors.
        folder: target; files of these names are replaced.

    Raises:
        ValueError: a tokenizer that cannot be loaded.
        OSError: a file that cannot be written.
    """
    vision = source.model.vision
    name = timm_name(vision)
    if name is None:
        name = tower_name(vision)
        (folder / "vision").mkdir(exist_ok=True)
        write_json(folder / "vision" / "config.json", _timm_config(vision))
    tokenizer = write_for_open_clip(source, folder)
    write_json(folder / "open_clip_config.json", open_clip_config(source, name, tokenizer))
    scale, bias = scale_of(source)
    tensors = {key: value for key, value in source.weights.items() if key.startswith(("visual.", "text."))}
    tensors["logit_scale"] = torch.tensor(scale)
    if bias is not None:
        tensors["logit_bias"] = torch.tensor(bias)
    write_weights(folder / "open_clip_model.safetensors", tensors)


class reload:
    """The model as open_clip loads it."""

    def __init__(self, folder: Path) -> None:
        import open_clip

        place = f"local-dir:{folder}"
        self.library = f"open_clip {open_clip.__version__}"
        self.model, _, self._preprocess = open_clip.create_model_and_transforms(place)
        self.model.eval()
        self._tokenizer = open_clip.get_tokenizer(place)
        bias = self.model.logit_bias
        self.scale = (self.model.logit_scale.item(), None if bias is None else bias.item())

    def images(self, images: list[Image.Image]) -> Tensor:
        """See :class:`silc.interchange.write.compare.Reloaded`."""
        return self.model.encode_image(torch.stack([self._preprocess(image) for image in images]), normalize=True)

    def texts(self, texts: list[str]) -> Tensor:
        """See :class:`silc.interchange.write.compare.Reloaded`."""
        return F.normalize(self.model.encode_text(self._tokenizer(texts)), dim=-1)


def loading_call(source: Source, folder: Path) -> str:
    """The Python that loads an export, for a message."""
    modules = "open_clip" if timm_name(source.model.vision) else "open_clip, silc.model.timm_tower"
    place = repr(f"local-dir:{folder}")
    return f"import {modules}; model, _, preprocess = open_clip.create_model_and_transforms({place})"


def open_clip_config(source: Source, timm_model_name: str, tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    """open_clip's description of the model and of its preprocessing.

    tokenizer: what is said of a Hugging Face tokenizer, see :func:`write_for_open_clip`.
    """
    vision = source.model.vision
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
        "text_cfg": {**_text_config(source.model.text), **tokenizer},
    }
    if source.logit_bias is not None:
        model["init_logit_bias"] = source.logit_bias
    mean, std = pixel_statistics(source)
    preprocess = {
        "size": vision.image_size,
        "mode": "RGB",
        "mean": list(mean),
        "std": list(std),
        "interpolation": "bicubic",
        "resize_mode": "squash",
    }
    return {"model_cfg": model, "preprocess_cfg": preprocess}


def _text_config(text: TextConfig) -> dict[str, Any]:
    described: dict[str, Any] = {
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
    if text.gelu == "tanh":
        described["act_kwargs"] = {"approximate": "tanh"}
    return described


def _timm_config(vision: VisionConfig) -> dict[str, Any]:
    """timm's config.json: a named model of the family, with its sizes replaced."""
    return {
        "architecture": BASE,
        "num_classes": 0,
        "model_args": timm_arguments(vision),
        "pretrained_cfg": {"input_size": [3, vision.image_size, vision.image_size], "num_classes": 0},
    }
