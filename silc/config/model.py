"""The towers and the distillation head."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from silc.config.fields import STRICT, Depth, Dropped, Gelu, Ratio, Rows, Size, key


@dataclass(config=STRICT, kw_only=True)
class VisionConfig:
    """The image tower: a ViT with attention pooling (SigLIP's layout)."""

    image_size: Size = key(256, "pixels per side of the grid the position table is stored for")
    patch_size: Size = key(16, "pixels per side of a patch")
    width: Size = key(768, "token width; also the width of the shared embedding")
    depth: Depth = key(12, "number of transformer blocks")
    heads: Depth = key(12, "attention heads; divides width")
    mlp_ratio: Ratio = key(4.0, "hidden width of the MLP over width")
    gelu: Gelu = key("exact", "exact, or the approximation by tanh, as in big_vision and in SigLIP at Hugging Face")
    drop_path: Dropped = key(
        0.0,
        "student: probability that a crop skips the attention of a block, and the same for its MLP, rising linearly "
        "from 0 to this in the last block",
    )
    patch_dropout: Dropped = key(
        0.0,
        "student: fraction of the patches that is left out of each crop aligned with the text; local crops keep all",
    )


@dataclass(config=STRICT, kw_only=True)
class TextConfig:
    """The text tower: a bidirectional transformer pooled at its last token (SigLIP's layout)."""

    context_length: Annotated[int, Field(ge=3, le=65_536)] = key(64, "tokens a caption is padded or cut to")
    vocab_size: Rows = key(49408, "rows of the token table; at least the tokenizer's")
    width: Size = key(768, "token width")
    depth: Depth = key(12, "number of transformer blocks")
    heads: Depth = key(12, "attention heads; divides width")
    mlp_ratio: Ratio = key(4.0, "hidden width of the MLP over width")
    gelu: Gelu = key("exact", "as in model.vision")


@dataclass(config=STRICT, kw_only=True)
class HeadConfig:
    """The projection head of self-distillation (DINO's)."""

    prototypes: Rows = key(65536, "K, the number of prototypes: outputs of the last layer")
    hidden: Size = key(2048, "hidden width of the MLP")
    bottleneck: Size = key(256, "width of the L2-normalised features before the last layer")
    layers: Depth = key(3, "linear layers in the MLP")


@dataclass(config=STRICT, kw_only=True)
class ModelConfig:
    """The student; the teacher is an EMA of its vision tower and head."""

    vision: VisionConfig = Field(default_factory=VisionConfig, description="image tower")
    text: TextConfig = Field(default_factory=TextConfig, description="text tower")
    head: HeadConfig = Field(default_factory=HeadConfig, description="distillation head")
    attention: Literal["auto", "sdpa", "xformers"] = key(
        "auto", "attention over the packed crops; auto says what it chose and why"
    )
    checkpoint_activations: bool = key(False, "recompute each block's activations in the backward pass")
    compile: bool = key(False, "torch.compile each transformer block")
