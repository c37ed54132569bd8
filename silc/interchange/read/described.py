"""What open_clip's description of a model says, and whether the towers here compute the same.

All fields of open_clip's CLIPVisionCfg, CLIPTextCfg and PreprocessCfg are known, with their defaults. One that changes
what is computed must have the value of SigLIP's layout, or one that is an option here; the others are not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from silc.config import ModelConfig, TextConfig, VisionConfig
from silc.data.hf_files import is_hub_name
from silc.files import inside
from silc.interchange.assemble import sizes
from silc.interchange.folder import read_fields, saved_tokenizer
from silc.interchange.read.fields import (
    Described,
    Finite,
    Number,
    Open,
    Size,
    Three,
    ThreePositive,
    differences,
    listed,
    otherwise,
)
from silc.interchange.source import Clean, Rgb
from silc.interchange.timm_names import is_cut, named_sizes
from silc.model.layers import NORM_EPS
from silc.text import shown


class _Vision(Described):
    image_size: Size | list[Size] = otherwise(224)
    timm_model_name: str
    timm_pool: Literal["map"] = otherwise("avg")
    timm_proj: Literal["none"] = otherwise("linear")
    # Of the weights that are replaced, of training, or of a ViT of open_clip's own, which a name of timm replaces.
    timm_model_pretrained: Any = None
    timm_proj_bias: Any = None
    timm_drop: Any = None
    timm_drop_path: Any = None
    patch_dropout: Any = None
    layers: Any = None
    width: Any = None
    head_width: Any = None
    mlp_ratio: Any = None
    patch_size: Any = None
    ls_init_value: Any = None
    attentional_pool: Any = None
    attn_pooler_queries: Any = None
    attn_pooler_heads: Any = None
    no_ln_pre: Any = None
    pos_embed_type: Any = None
    final_ln_after_pool: Any = None
    pool_type: Any = None
    output_tokens: Any = None
    act_kwargs: Any = None
    norm_kwargs: Any = None
    block_type: Any = None
    qk_norm: Any = None
    scaled_cosine_attn: Any = None
    scale_heads: Any = None
    scale_attn_inner: Any = None
    scale_attn: Any = None
    scale_fc: Any = None


class _Act(Described):
    approximate: Literal["none", "tanh"] = "none"


def _as_here(eps: float) -> float:
    if eps != NORM_EPS:
        raise ValueError(f"here {NORM_EPS}")
    return eps


class _Norm(Described):
    eps: Annotated[float, AfterValidator(_as_here)] = otherwise(1e-5)


class _TokenizerKwargs(Described):
    clean: Literal["whitespace", "lower", "canonicalize"] | None = None
    strip_sep_token: Literal[False] = False


class _Text(Described):
    context_length: Size = 77
    vocab_size: Size = 49408
    width: Size = 512
    heads: Size = 8
    layers: Size = 12
    mlp_ratio: Number = 4.0
    no_causal_mask: Literal[True] = otherwise(False)
    pool_type: Literal["last"] = otherwise("argmax")
    proj_type: Literal["linear"] = "linear"
    proj_bias: Literal[True] = otherwise(False)
    act_kwargs: _Act | None = None
    norm_kwargs: Annotated[_Norm, BeforeValidator(lambda given: given or {})] = otherwise({})
    ls_init_value: None = None
    embed_cls: Literal[False] = False
    block_type: Literal["default"] | None = None
    qk_norm: Literal[False] = False
    scaled_cosine_attn: Literal[False] = False
    scale_heads: Literal[False] = False
    scale_attn_inner: Literal[False] = False
    scale_attn: Literal[False] = False
    scale_fc: Literal[False] = False
    hf_model_name: None = None
    hf_tokenizer_name: str | None = None
    tokenizer_mode: Literal[""] | None = None
    tokenizer_kwargs: _TokenizerKwargs | None = None
    # Of other poolings, of padding that nothing masks here, or of a tower from Hugging Face.
    pad_id: Any = None
    eos_id: Any = None
    final_ln_after_pool: Any = None
    output_tokens: Any = None
    hf_model_pretrained: Any = None
    hf_proj_type: Any = None
    hf_pooler_type: Any = None


class _Model(Described):
    embed_dim: Size
    vision_cfg: dict[str, Any]
    text_cfg: dict[str, Any]
    quick_gelu: Literal[False] = False
    init_logit_bias: Finite | None = None
    # How the parameters are named or begin, which the weights show.
    custom_text: Any = None
    init_logit_scale: Any = None
    nonscalar_logit_scale: Any = None
    cast_dtype: Any = None
    output_dict: Any = None


class _Preprocess(Open):
    mode: Literal["RGB"] = "RGB"
    mean: Three = Field(default_factory=lambda: [0.48145466, 0.4578275, 0.40821073])
    std: ThreePositive = Field(default_factory=lambda: [0.26862954, 0.26130258, 0.27577711])
    interpolation: Literal["bicubic"] = "bicubic"
    resize_mode: Literal["squash"] = otherwise("shortest")


@dataclass(frozen=True, kw_only=True)
class Description:
    """What the files say beside the weights; fields as in :class:`silc.interchange.source.Source`."""

    model: ModelConfig
    sigmoid: bool
    mean: Rgb | None = None
    std: Rgb | None = None
    tokenizer: str | None = None
    tokenizer_clean: Clean = "auto"
    assumed: dict[str, str] = field(default_factory=dict)


def is_description(tree: dict[str, Any]) -> bool:
    """Whether a JSON file is one of a model: a folder's, or one of open_clip's model_configs."""
    return "model_cfg" in tree or ("vision_cfg" in tree and "text_cfg" in tree)


def describe(path: Path) -> Description:
    """The model that a JSON file of open_clip describes.

    Raises:
        ValueError: a file that is missing, damaged or too large, or a model that the towers here do not compute, with
            every difference.
    """
    tree = read_fields(path)
    bare = "model_cfg" not in tree  # as in open_clip's model_configs, without preprocessing
    wrong: list[str] = []
    above = "" if bare else "model_cfg"
    model = differences(_Model, tree if bare else tree["model_cfg"], wrong, above)
    parts = tree if bare else tree["model_cfg"]
    parts = parts if isinstance(parts, dict) else {}
    prefix = f"{above}." if above else ""
    vision = _vision(parts.get("vision_cfg"), wrong, f"{prefix}vision_cfg")
    text = differences(_Text, parts["text_cfg"], wrong, f"{prefix}text_cfg") if "text_cfg" in parts else None
    pixels = None if bare else differences(_Preprocess, tree.get("preprocess_cfg") or {}, wrong, "preprocess_cfg")
    if wrong or model is None or vision is None or text is None:
        raise ValueError(f"{path} describes another architecture than the towers here have: {listed(wrong)}")
    return _described(path, model, vision, text, pixels)


def _vision(tree: object, wrong: list[str], above: str) -> _Vision | None:
    if not isinstance(tree, dict):
        return None  # which the model above has said
    if tree.get("timm_model_name") is None:
        wrong.append(
            f"{above} has no timm_model_name: a tower of CLIP's shape, here SigLIP's (no class token, pooled by "
            "attention, no projection)"
        )
        return None
    return differences(_Vision, tree, wrong, above)


def _described(path: Path, model: _Model, vision: _Vision, text: _Text, pixels: _Preprocess | None) -> Description:
    tower = sizes(
        path,
        lambda: _tower(path, vision),
        lambda: TextConfig(
            context_length=text.context_length,
            vocab_size=text.vocab_size,
            width=text.width,
            depth=text.layers,
            heads=text.heads,
            mlp_ratio=text.mlp_ratio,
            gelu="tanh" if text.act_kwargs is not None and text.act_kwargs.approximate == "tanh" else "exact",
        ),
    )
    if model.embed_dim != tower.vision.width:
        raise ValueError(f"{path}: embed_dim is {model.embed_dim}, the image tower's width {tower.vision.width}")
    assumed = {}
    if is_cut(vision.timm_model_name):
        assumed["model.vision.image_size"] = (
            f"{tower.vision.image_size}, since patches of {tower.vision.patch_size} px leave the edge out"
        )
    kwargs = text.tokenizer_kwargs or _TokenizerKwargs()
    return Description(
        model=tower,
        sigmoid=model.init_logit_bias is not None,
        mean=None if pixels is None else _three(pixels.mean),
        std=None if pixels is None else _three(pixels.std),
        tokenizer=_tokenizer(path.parent, text.hf_tokenizer_name),
        # The second is open_clip's own default for a tokenizer of Hugging Face.
        tokenizer_clean=kwargs.clean or ("whitespace" if text.hf_tokenizer_name else "auto"),
        assumed=assumed,
    )


def _tower(path: Path, vision: _Vision) -> VisionConfig:
    """Sizes that the image tower's name stands for; those of vision/config.json where it is a folder's name, as in
    exports of earlier versions. Raises ValueError for another name.
    """
    name = vision.timm_model_name
    if name.startswith("local-dir:"):
        inside(path.parent, "vision")
        return _earlier(inside(path.parent / "vision", "config.json"))
    tower = named_sizes(name)
    if tower is None:
        raise ValueError(
            f"{path}: timm_model_name is {shown(name)}, which is not known here; it must be one of timm's "
            "vit_*_siglip_* that are pooled by attention"
        )
    given = vision.image_size if isinstance(vision.image_size, list) else [vision.image_size]
    if any(size // tower.patch_size != tower.image_size // tower.patch_size for size in given):
        raise ValueError(
            f"{path}: vision_cfg.image_size is {vision.image_size}, but {shown(name)} is for {tower.image_size}"
        )
    return tower


class _Arguments(Described):
    img_size: Size
    patch_size: Size
    embed_dim: Size
    depth: Size
    num_heads: Size
    mlp_ratio: Number


class _Timm(Open):
    architecture: Literal["vit_base_patch16_siglip_256"]
    model_args: _Arguments


def _earlier(path: Path) -> VisionConfig:
    wrong: list[str] = []
    found = differences(_Timm, read_fields(path), wrong)
    if found is None:
        raise ValueError(f"{path}: {listed(wrong)}")
    args = found.model_args
    return VisionConfig(
        image_size=args.img_size,
        patch_size=args.patch_size,
        width=args.embed_dim,
        depth=args.depth,
        heads=args.num_heads,
        mlp_ratio=args.mlp_ratio,
    )


def _tokenizer(folder: Path, name: str | None) -> str | None:
    """open_clip's own BPE; or the folder, where open_clip looks for the named one; or its name, to be got from the hub
    of Hugging Face. A path that the description names is not followed: None, where there is nothing else.
    """
    if not name:
        return "open_clip_bpe"
    here = saved_tokenizer(folder)
    return here or (name if is_hub_name(name) else None)


def _three(values: list[float]) -> Rgb:
    first, second, third = values
    return first, second, third
