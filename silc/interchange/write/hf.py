"""Export to Hugging Face: a folder that transformers' AutoModel loads as its SiglipModel.

    config.json                     sizes, activation, token ids
    model.safetensors               vision_model.*, text_model.*, logit_scale, logit_bias
    preprocessor_config.json        SiglipImageProcessor: squash to a square, bicubic, mean and std
    tokenizer.json, tokenizer_config.json

SiglipModel computes the same function from the same numbers: the joint projections of attention are cut apart, in the
image tower's pooling they are put together. It has one head for both losses: for a model that was trained with the
softmax loss the bias is 0, and `contrastive_loss` in config.json, which transformers keeps and does not look at, says
so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from silc.interchange.shapes import hidden_width
from silc.interchange.source import Source
from silc.interchange.write.common import pixel_statistics, scale_of, write_json, write_weights
from silc.interchange.write.tokenizer import write_for_transformers
from silc.model.layers import NORM_EPS

BICUBIC = 3  # PIL.Image.Resampling
ACTIVATION = {"exact": "gelu", "tanh": "gelu_pytorch_tanh"}
# Our names -> theirs, of what is copied as it is; a block's number is kept.
_NAMES = {
    r"visual\.trunk\.patch_embed\.proj": "vision_model.embeddings.patch_embedding",
    r"visual\.trunk\.blocks\.(\d+)\.norm([12])": r"vision_model.encoder.layers.\1.layer_norm\2",
    r"visual\.trunk\.blocks\.(\d+)\.attn\.proj": r"vision_model.encoder.layers.\1.self_attn.out_proj",
    r"visual\.trunk\.blocks\.(\d+)\.mlp\.fc([12])": r"vision_model.encoder.layers.\1.mlp.fc\2",
    r"visual\.trunk\.norm": "vision_model.post_layernorm",
    r"visual\.trunk\.attn_pool\.proj": "vision_model.head.attention.out_proj",
    r"visual\.trunk\.attn_pool\.norm": "vision_model.head.layernorm",
    r"visual\.trunk\.attn_pool\.mlp\.fc([12])": r"vision_model.head.mlp.fc\1",
    r"text\.token_embedding": "text_model.embeddings.token_embedding",
    r"text\.transformer\.resblocks\.(\d+)\.ln_([12])": r"text_model.encoder.layers.\1.layer_norm\2",
    r"text\.transformer\.resblocks\.(\d+)\.attn\.out_proj": r"text_model.encoder.layers.\1.self_attn.out_proj",
    r"text\.transformer\.resblocks\.(\d+)\.mlp\.c_fc": r"text_model.encoder.layers.\1.mlp.fc1",
    r"text\.transformer\.resblocks\.(\d+)\.mlp\.c_proj": r"text_model.encoder.layers.\1.mlp.fc2",
    r"text\.ln_final": "text_model.final_layer_norm",
    r"text\.text_projection": "text_model.head",
}
_COPIED = [(re.compile(pattern), name) for pattern, name in _NAMES.items()]
# Joint projections of queries, keys and values -> the layer whose q_proj, k_proj, v_proj they become.
_JOINT = [
    (re.compile(r"visual\.trunk\.blocks\.(\d+)\.attn\.qkv\.(weight|bias)"), "vision_model.encoder.layers"),
    (re.compile(r"text\.transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)"), "text_model.encoder.layers"),
]
_POOL = "visual.trunk.attn_pool"


def write(source: Source, folder: Path) -> None:
    """Write the files into a folder, which exists.

    Raises:
        ValueError: a tokenizer that cannot be loaded.
        OSError: a file that cannot be written.
    """
    ids = write_for_transformers(source, folder)
    write_json(folder / "config.json", siglip_config(source, ids))
    write_json(folder / "preprocessor_config.json", preprocessor_config(source))
    write_weights(folder / "model.safetensors", dict(tensors(source)))


class reload:
    """The model as transformers loads it."""

    def __init__(self, folder: Path) -> None:
        import transformers

        self.library = f"transformers {transformers.__version__}"
        here = {"local_files_only": True, "trust_remote_code": False}
        self.model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32, **here).eval()
        self._processor = transformers.AutoImageProcessor.from_pretrained(folder, **here)
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **here)
        self.scale = (self.model.logit_scale.item(), self.model.logit_bias.item())

    def images(self, images: list[Image.Image]) -> Tensor:
        """See :class:`silc.interchange.write.compare.Reloaded`."""
        pixels = self._processor(images=images, return_tensors="pt")
        return F.normalize(self.model.get_image_features(**pixels).pooler_output, dim=-1)

    def texts(self, texts: list[str]) -> Tensor:
        """See :class:`silc.interchange.write.compare.Reloaded`."""
        tokens = self._tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
        return F.normalize(self.model.get_text_features(**tokens).pooler_output, dim=-1)


def loading_call(source: Source, folder: Path) -> str:
    """The Python that loads an export, for a message."""
    del source
    return f"from transformers import AutoModel; model = AutoModel.from_pretrained({str(folder)!r})"


def siglip_config(source: Source, ids: dict[str, int | None]) -> dict[str, Any]:
    """config.json. ids: pad_token_id, bos_token_id and eos_token_id."""
    vision, text = source.model.vision, source.model.text
    return {
        "architectures": ["SiglipModel"],
        "model_type": "siglip",
        "dtype": "float32",
        "contrastive_loss": "softmax" if source.logit_bias is None else "sigmoid",
        "text_config": {
            "model_type": "siglip_text_model",
            "vocab_size": text.vocab_size,
            "hidden_size": text.width,
            "intermediate_size": hidden_width(text.width, text.mlp_ratio),
            "num_hidden_layers": text.depth,
            "num_attention_heads": text.heads,
            "max_position_embeddings": text.context_length,
            "hidden_act": ACTIVATION[text.gelu],
            "layer_norm_eps": NORM_EPS,
            "projection_size": vision.width,
            **ids,
        },
        "vision_config": {
            "model_type": "siglip_vision_model",
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "hidden_size": vision.width,
            "intermediate_size": hidden_width(vision.width, vision.mlp_ratio),
            "num_hidden_layers": vision.depth,
            "num_attention_heads": vision.heads,
            "hidden_act": ACTIVATION[vision.gelu],
            "layer_norm_eps": NORM_EPS,
        },
    }


def preprocessor_config(source: Source) -> dict[str, Any]:
    """preprocessor_config.json: the whole image squashed to a square, bicubic, antialiased."""
    size, (mean, std) = source.model.vision.image_size, pixel_statistics(source)
    return {
        "image_processor_type": "SiglipImageProcessor",
        "processor_class": "SiglipProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": size, "width": size},
        "resample": BICUBIC,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }


def tensors(source: Source) -> Iterator[tuple[str, Tensor]]:
    """The tensors under SiglipModel's names."""
    weights = source.weights
    for name, value in weights.items():
        if name.startswith(("visual.", "text.")):
            yield from _translated(name, value)
    yield "vision_model.embeddings.position_embedding.weight", weights["visual.trunk.pos_embed"][0]
    yield "text_model.embeddings.position_embedding.weight", weights["text.positional_embedding"]
    yield "vision_model.head.probe", weights[f"{_POOL}.latent"]
    for kind in ("weight", "bias"):
        joint = torch.cat([weights[f"{_POOL}.q.{kind}"], weights[f"{_POOL}.kv.{kind}"]])
        yield f"vision_model.head.attention.in_proj_{kind}", joint
    scale, bias = scale_of(source)
    yield "logit_scale", torch.tensor([scale])
    yield "logit_bias", torch.tensor([bias or 0.0])


def _translated(name: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Nothing for the few that are no weight or bias of a layer, and for the pool's projections."""
    for pattern, layers in _JOINT:
        if match := pattern.fullmatch(name):
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                yield f"{layers}.{match[1]}.self_attn.{letter}_proj.{match[2]}", part
            return
    layer, _, kind = name.rpartition(".")
    for pattern, theirs in _COPIED:
        if match := pattern.fullmatch(layer):
            yield f"{match.expand(theirs)}.{kind}", value
            return
