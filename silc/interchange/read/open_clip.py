"""Reading back what :mod:`silc.interchange.write.open_clip` wrote: an open_clip folder to a configuration and weights.

Only that is read: a folder of open_clip that asks for other arithmetic (another pooling, another activation, pixels
resized in another way) is refused, since the towers here would compute other features from its weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from silc.config import Config, DataConfig, ModelConfig, ObjectiveConfig, TextConfig, ViewsConfig, VisionConfig
from silc.files import check_regular
from silc.interchange.timm_names import named_sizes
from silc.model.layers import NORM_EPS

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
MAX_JSON = 1 << 20  # bytes; an export's description has about a thousand

Size = Annotated[int, Field(ge=1, le=1_000_000)]
Number = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Described(BaseModel):
    """JSON that holds the fields given and no other."""

    model_config = ConfigDict(extra="forbid", strict=True)


class _VisionCfg(_Described):
    image_size: Size
    timm_model_name: str
    timm_model_pretrained: Literal[False]
    timm_pool: Literal["map"]
    timm_proj: Literal["none"]


class _NormKwargs(_Described):
    eps: float


class _TextCfg(_Described):
    context_length: Size
    vocab_size: Size
    width: Size
    heads: Size
    layers: Size
    mlp_ratio: Number
    no_causal_mask: Literal[True]
    proj_bias: Literal[True]
    pool_type: Literal["last"]
    norm_kwargs: _NormKwargs
    hf_tokenizer_name: str | None = None


class _ModelCfg(_Described):
    embed_dim: Size
    custom_text: Literal[True]
    vision_cfg: _VisionCfg
    text_cfg: _TextCfg
    init_logit_bias: Finite | None = None


class _PreprocessCfg(_Described):
    size: Size
    mode: Literal["RGB"]
    mean: tuple[Finite, Finite, Finite]
    std: tuple[Number, Number, Number]
    interpolation: Literal["bicubic"]
    resize_mode: Literal["squash"]


class _OpenClip(_Described):
    model_cfg: _ModelCfg
    preprocess_cfg: _PreprocessCfg


class _ModelArgs(_Described):
    img_size: Size
    patch_size: Size
    embed_dim: Size
    depth: Size
    num_heads: Size
    mlp_ratio: Number


class _Timm(BaseModel):
    model_config = ConfigDict(strict=True)
    architecture: Literal["vit_base_patch16_siglip_256"]
    model_args: _ModelArgs


T = TypeVar("T", bound=BaseModel)


def is_export(folder: Path) -> bool:
    """Whether a folder looks like an open_clip export."""
    return (folder / CONFIG).is_file()


def load_export(folder: Path) -> tuple[Config, dict[str, Tensor]]:
    """The configuration that the folder describes and its weights.

    Returns:
        Model, pixel statistics, tokenizer, kind of the contrastive loss; images at the model's size. The weights by the
        student's names, fp32 on the CPU, and with them logit_scale and for the sigmoid loss logit_bias, 0-dimensional.

    Raises:
        ValueError: a folder that is not an export of this package, a file that is missing or damaged, or weights that
            do not fit the description.
    """
    try:
        return _load(folder)
    except ValidationError as error:  # sizes beyond the limits of silc.config
        raise ValueError(f"{folder / CONFIG} was not written by silc export ({_first(error)})") from None


def _load(folder: Path) -> tuple[Config, dict[str, Tensor]]:
    described = _read(folder / CONFIG, _OpenClip)
    model, pixels = described.model_cfg, described.preprocess_cfg
    vision, text = _vision(folder, model.vision_cfg.timm_model_name), model.text_cfg
    if text.norm_kwargs.eps != NORM_EPS or model.embed_dim != vision.width or pixels.size != vision.image_size:
        raise ValueError(f"{folder / CONFIG} does not describe a model that silc export writes: export again")
    weights = _weights(folder)
    _check_scale(folder, weights)
    towers = ModelConfig(
        vision=vision,
        text=TextConfig(
            context_length=text.context_length,
            vocab_size=text.vocab_size,
            width=text.width,
            depth=text.layers,
            heads=text.heads,
            mlp_ratio=text.mlp_ratio,
        ),
    )
    check_sizes(towers, weights, folder)
    config = Config(
        model=towers,
        views=ViewsConfig(global_size=vision.image_size),
        objective=ObjectiveConfig(contrastive="sigmoid" if "logit_bias" in weights else "softmax"),
        data=DataConfig(
            mean=pixels.mean,
            std=pixels.std,
            tokenizer="open_clip_bpe" if text.hf_tokenizer_name is None else str(folder),
        ),
    )
    return config, weights


def _read(path: Path, kind: type[T]) -> T:
    """A JSON file of a known shape. Raises ValueError naming the first field that is wrong."""
    try:
        check_regular(path)
        if path.stat().st_size > MAX_JSON:
            raise ValueError(f"{path} is larger than {MAX_JSON} bytes; silc export writes about a thousand")
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}; export again") from None
    except ValidationError as error:
        raise ValueError(
            f"{path} was not written by silc export ({_first(error)}); only such exports load here"
        ) from None


def _first(error: ValidationError) -> str:
    """The first field that is wrong, and why."""
    first = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"{field + ': ' if field else ''}{message}"


def _vision(folder: Path, name: str) -> VisionConfig:
    """Sizes that the image tower's name stands for; those of vision/config.json where it is a folder's name, as in
    exports of earlier versions.
    """
    if not name.startswith("local-dir:"):
        sizes = named_sizes(name)
        if sizes is None:
            raise ValueError(f"{folder / CONFIG}: the image tower {name!r} is not one that silc export writes")
        return sizes
    found = _read(folder / "vision" / "config.json", _Timm).model_args
    return VisionConfig(
        image_size=found.img_size,
        patch_size=found.patch_size,
        width=found.embed_dim,
        depth=found.depth,
        heads=found.num_heads,
        mlp_ratio=found.mlp_ratio,
    )


def _weights(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    if not path.is_file():
        raise ValueError(f"{folder} has {CONFIG} but no {WEIGHTS}: export again")
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is damaged ({error}): export again") from None


def check_sizes(model: ModelConfig, weights: Mapping[str, Tensor], where: Path) -> None:
    """Compare sizes with the tensors before a model of these sizes is built: what a few bytes of a configuration claim
    would otherwise decide how long that takes. The shapes are compared one by one when the weights are put in.

    Raises ValueError naming `where`.
    """
    if "visual.trunk.attn_pool.latent" not in weights:
        raise ValueError(f"{where} holds no attention-pooled ViT (visual.trunk.attn_pool), which silc export writes")
    depths = {"visual.trunk.blocks": model.vision.depth, "text.transformer.resblocks": model.text.depth}
    for stem, depth in depths.items():
        found = len({name.removeprefix(stem).split(".")[1] for name in weights if name.startswith(stem + ".")})
        if found != depth:
            raise ValueError(
                f"{where}: the weights have {found} blocks {stem}, the configuration has {depth}; they are not of one "
                "model"
            )
    for tower in (model.vision, model.text):
        if tower.width % tower.heads:
            raise ValueError(f"{where}: {tower.heads} heads do not divide a width of {tower.width}")
    if model.vision.image_size % model.vision.patch_size:
        raise ValueError(f"{where}: patches of {model.vision.patch_size} px do not divide {model.vision.image_size} px")


def _check_scale(folder: Path, weights: Mapping[str, Tensor]) -> None:
    if "logit_scale" not in weights:
        raise ValueError(f"{folder}: {WEIGHTS} has no logit_scale: export again")
    for name in ("logit_scale", "logit_bias"):
        if name in weights and weights[name].shape != ():
            raise ValueError(f"{folder}: {name} has shape {list(weights[name].shape)}, not []: export again")
