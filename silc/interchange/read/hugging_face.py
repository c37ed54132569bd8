"""Folders of transformers' SiglipModel.

    config.json                  model_type siglip, text_config, vision_config
    model.safetensors            or model.safetensors.index.json and the parts that it names
    preprocessor_config.json     pixels; processor_config.json in folders of a whole processor
    tokenizer.json, ...          if a tokenizer was saved

What transformers calls SigLIP 2 with images of a fixed size is a SiglipModel too. Fields that a file leaves out have
the defaults of SiglipTextConfig, SiglipVisionConfig and SiglipImageProcessor.
"""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Any, Literal

from silc.config import ModelConfig, TextConfig, VisionConfig
from silc.config.fields import Gelu
from silc.files import inside
from silc.interchange.assemble import Names, assemble, logarithm, refuse_unknown, scalar, sizes
from silc.interchange.folder import has, read_fields, saved_tokenizer
from silc.interchange.read.fields import Open, Size, Three, ThreePositive, differences, listed, otherwise
from silc.interchange.shapes import mlp_ratio
from silc.interchange.source import Rgb, Source
from silc.interchange.tensors import Stored, joined, open_safetensors
from silc.model.layers import NORM_EPS
from silc.text import shown

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_MODEL_TYPE = "siglip"
_OTHERS = {
    "siglip2": "SigLIP 2 for images of any proportions (NaFlex), which are packed as sequences of patches",
    "siglip_vision_model": "an image tower without its text tower",
    "siglip_text_model": "a text tower without its image tower",
    "clip": "CLIP, with a class token and a causal text tower",
}
_BILINEAR = 2  # PIL's number; 3 is bicubic
Activation = Literal["gelu", "gelu_pytorch_tanh"]


class _Tower(Open):
    hidden_size: Size = 768
    intermediate_size: Size = 3072
    num_hidden_layers: Size = 12
    num_attention_heads: Size = 12
    hidden_act: Activation = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6


class _Vision(_Tower):
    image_size: Size | list[Size] = 224
    patch_size: Size | list[Size] = 16
    num_channels: Literal[3] = 3
    vision_use_head: Literal[True] = True


class _Text(_Tower):
    vocab_size: Size = 32000
    max_position_embeddings: Size = 64
    projection_size: Size | None = None


class _Sides(Open):
    height: Size
    width: Size


class _Processor(Open):
    do_resize: Literal[True] = True
    do_rescale: Literal[True] = True
    do_normalize: Literal[True] = True
    do_center_crop: Literal[False] | None = None
    do_pad: Literal[False] | None = None
    resample: Literal[2, 3] = 3
    rescale_factor: float = 1 / 255
    size: _Sides | Size = otherwise({"height": 224, "width": 224})
    image_mean: Three = otherwise([0.5, 0.5, 0.5])
    image_std: ThreePositive = otherwise([0.5, 0.5, 0.5])


def read_folder(folder: Path) -> Source:
    """A folder of SiglipModel. Raises ValueError as :func:`silc.interchange.read.read`."""
    model, assumed = _model(inside(folder, CONFIG))
    mean, std, resampled = _pixels(folder, model)
    with open_safetensors(_weights(folder)) as found:
        for part in ("text", "vision"):
            if not any(name.startswith(f"{part}_model.") for name in found):
                raise ValueError(f"{folder} holds no tensors of a {part} tower ({part}_model.*)")
        names = Names(folder, found)
        stored = _ours(names, model)
        scale, bias = names("logit_scale"), names("logit_bias")
        left = names.left()
        # Positions counted from 0, which some versions of transformers saved.
        others = (name for name in left if not name.endswith(".position_ids"))
        refuse_unknown(folder, (name for name in others if name.startswith(("text_model.", "vision_model."))))
        weights, _ = assemble(folder, model, stored)
        return Source(
            path=folder,
            kind="a Hugging Face folder",
            model=model,
            weights=weights,
            logit_scale=logarithm(folder, "logit_scale", scale),
            logit_bias=None if _softmax(folder) else scalar(folder, "logit_bias", bias),
            mean=mean,
            std=std,
            tokenizer=saved_tokenizer(folder),
            resize="hugging_face",
            assumed=assumed | resampled,
            ignored=left,
        )


def _softmax(folder: Path) -> bool:
    """Whether an export of this package says that the model was trained with the softmax loss: its bias is 0 then."""
    return read_fields(inside(folder, CONFIG)).get("contrastive_loss") == "softmax"


def _model(path: Path) -> tuple[ModelConfig, dict[str, str]]:
    """The sizes that config.json states. Raises ValueError for another architecture, with every difference."""
    tree = read_fields(path)
    kind = tree.get("model_type")
    if kind is None and "architecture" in tree:  # timm's description
        raise ValueError(f"{path} is of a model of timm, an image tower alone; give both towers")
    if kind != _MODEL_TYPE:
        what = _OTHERS.get(kind) if isinstance(kind, str) else None
        raise ValueError(f"{path}: model_type is {reprlib.repr(kind)}{f', {what}' if what else ''}; here 'siglip'")
    wrong: list[str] = []
    vision = differences(_Vision, tree.get("vision_config") or {}, wrong, "vision_config")
    text = differences(_Text, tree.get("text_config") or {}, wrong, "text_config")
    for name, tower in (("vision_config", vision), ("text_config", text)):
        if tower is not None and tower.layer_norm_eps != NORM_EPS:
            wrong.append(f"{name}.layer_norm_eps is {tower.layer_norm_eps}, here {NORM_EPS}")
    if wrong or vision is None or text is None:
        raise ValueError(f"{path} describes another architecture than the towers here have: {listed(wrong)}")
    image, patch = _side(path, "image_size", vision.image_size), _side(path, "patch_size", vision.patch_size)
    if (text.projection_size or text.hidden_size) != vision.hidden_size:
        raise ValueError(
            f"{path}: the text tower's features have {text.projection_size or text.hidden_size} numbers, the image "
            f"tower's {vision.hidden_size}"
        )
    used = max(1, image // patch) * patch
    assumed = {}
    if used != image:
        assumed["model.vision.image_size"] = f"{used}, since patches of {patch} px leave the edge of {image} px out"
    model = sizes(
        path,
        lambda: VisionConfig(
            image_size=used,
            patch_size=patch,
            width=vision.hidden_size,
            depth=vision.num_hidden_layers,
            **_common(vision),
        ),
        lambda: TextConfig(
            context_length=text.max_position_embeddings,
            vocab_size=text.vocab_size,
            width=text.hidden_size,
            depth=text.num_hidden_layers,
            **_common(text),
        ),
    )
    return model, assumed


def _common(tower: _Tower) -> dict[str, Any]:
    gelu: Gelu = "tanh" if tower.hidden_act == "gelu_pytorch_tanh" else "exact"
    return {
        "heads": tower.num_attention_heads,
        "mlp_ratio": mlp_ratio(tower.hidden_size, tower.intermediate_size),
        "gelu": gelu,
    }


def _side(path: Path, name: str, given: int | list[int]) -> int:
    found = set(given) if isinstance(given, list) else {given}
    if len(found) != 1:
        raise ValueError(f"{path}: vision_config.{name} is {reprlib.repr(given)}; here it is square")
    return found.pop()


def _pixels(folder: Path, model: ModelConfig) -> tuple[Rgb | None, Rgb | None, dict[str, str]]:
    """Mean and deviation of pixels, and what is done in another way here. Raises ValueError for other preprocessing."""
    if has(folder, "preprocessor_config.json"):
        path = inside(folder, "preprocessor_config.json")
        tree: Any = read_fields(path)
    elif has(folder, "processor_config.json"):
        path = inside(folder, "processor_config.json")
        tree = read_fields(path).get("image_processor")
    else:
        tree = None
    if tree is None:
        return None, None, {}
    wrong: list[str] = []
    found = differences(_Processor, tree, wrong)
    if found is not None:
        size, patch = found.size, model.vision.patch_size
        sides = {size} if isinstance(size, int) else {size.height, size.width}
        if {side // patch for side in sides} != {model.vision.image_size // patch}:
            wrong.append(f"size is {' x '.join(map(str, sorted(sides)))}, the model's {model.vision.image_size}")
        if abs(found.rescale_factor * 255 - 1) > 1e-6:
            wrong.append(f"rescale_factor is {found.rescale_factor}, here 1/255")
    if wrong or found is None:
        raise ValueError(
            f"{path} describes other preprocessing than here (the whole image, made square): {listed(wrong)}"
        )
    resampled = {}
    if found.resample == _BILINEAR:
        resampled["preprocessing"] = "images are resized bicubically here, the files say bilinearly"
    return _three(found.image_mean), _three(found.image_std), resampled


def _three(values: list[float]) -> Rgb:
    first, second, third = values
    return first, second, third


def _weights(folder: Path) -> list[Path]:
    """The file of weights, or its parts. Raises ValueError."""
    if has(folder, WEIGHTS):
        return [inside(folder, WEIGHTS)]
    if not has(folder, INDEX):
        if has(folder, "pytorch_model.bin") or has(folder, "pytorch_model.bin.index.json"):
            raise ValueError(
                f"{folder} has its weights in pytorch_model.bin alone, which may run code when it is read, so it is "
                "not; save it anew with transformers: SiglipModel.from_pretrained(...).save_pretrained(...)"
            )
        raise ValueError(f"{folder} has {CONFIG} but no {WEIGHTS}")
    path = inside(folder, INDEX)
    found = read_fields(path).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(part, str) for part in found.values()):
        raise ValueError(f"{path} has no weight_map of names")
    parts = sorted(set(found.values()))
    odd = next((part for part in parts if not part.endswith(".safetensors")), None)
    if odd is not None or not parts:
        raise ValueError(f"{path}: {shown(odd or 'nothing')} is no .safetensors file")
    return [inside(folder, part) for part in parts]


def _ours(names: Names, model: ModelConfig) -> dict[str, Stored]:
    """The towers' tensors under the names here."""
    found = _vision_tower(names, model.vision.depth) | _text_tower(names, model.text.depth)
    head = "vision_model.head."
    in_weight, in_bias = names(head + "attention.in_proj_weight"), names(head + "attention.in_proj_bias")
    width = model.vision.width
    pool = "visual.trunk.attn_pool."
    for kind, whole in (("weight", in_weight), ("bias", in_bias)):
        if not whole.shape or whole.shape[0] != 3 * width:
            raise ValueError(f"{head}attention.in_proj_{kind} has shape {list(whole.shape)}, not [{3 * width}, ...]")
        rest = whole.shape[1:]
        found[f"{pool}q.{kind}"] = whole.changed((width, *rest), lambda value: value[:width].clone())
        found[f"{pool}kv.{kind}"] = whole.changed((2 * width, *rest), lambda value: value[width:].clone())
    found[pool + "latent"] = names(head + "probe")
    for ours, theirs in (("proj", "attention.out_proj"), ("norm", "layernorm"), ("mlp.fc1",) * 2, ("mlp.fc2",) * 2):
        found |= _both(names, pool + ours, head + theirs)
    return found


def _vision_tower(names: Names, depth: int) -> dict[str, Stored]:
    """All but the pooling."""
    trunk, tower = "visual.trunk.", "vision_model."
    table = names(tower + "embeddings.position_embedding.weight")
    found = {trunk + "pos_embed": table.changed((1, *table.shape), lambda value: value[None])}
    found |= _both(names, trunk + "patch_embed.proj", tower + "embeddings.patch_embedding")
    found |= _both(names, trunk + "norm", tower + "post_layernorm")
    for index in range(depth):
        ours, theirs = f"{trunk}blocks.{index}.", f"{tower}encoder.layers.{index}."
        for kind in ("weight", "bias"):
            found[f"{ours}attn.qkv.{kind}"] = _qkv(names, theirs, kind)
        for mine, yours in (("norm1", "layer_norm1"), ("norm2", "layer_norm2"), ("attn.proj", "self_attn.out_proj")):
            found |= _both(names, ours + mine, theirs + yours)
        for layer in ("mlp.fc1", "mlp.fc2"):
            found |= _both(names, ours + layer, theirs + layer)
    return found


def _text_tower(names: Names, depth: int) -> dict[str, Stored]:
    tower = "text_model."
    found = {
        "text.token_embedding.weight": names(tower + "embeddings.token_embedding.weight"),
        "text.positional_embedding": names(tower + "embeddings.position_embedding.weight"),
    }
    found |= _both(names, "text.ln_final", tower + "final_layer_norm")
    found |= _both(names, "text.text_projection", tower + "head")
    for index in range(depth):
        ours, theirs = f"text.transformer.resblocks.{index}.", f"{tower}encoder.layers.{index}."
        for kind in ("weight", "bias"):
            found[f"{ours}attn.in_proj_{kind}"] = _qkv(names, theirs, kind)
        found |= _both(names, ours + "attn.out_proj", theirs + "self_attn.out_proj")
        for mine, yours in (("ln_1", "layer_norm1"), ("ln_2", "layer_norm2")):
            found |= _both(names, ours + mine, theirs + yours)
        for mine, yours in (("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2")):
            found |= _both(names, ours + mine, theirs + yours)
    return found


def _both(names: Names, ours: str, theirs: str) -> dict[str, Stored]:
    return {f"{ours}.{kind}": names(f"{theirs}.{kind}") for kind in ("weight", "bias")}


def _qkv(names: Names, block: str, kind: str) -> Stored:
    return joined([names(f"{block}self_attn.{part}_proj.{kind}") for part in "qkv"])
