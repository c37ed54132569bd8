"""Sizes of a model from the shapes of its tensors, where nothing describes it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from silc.config import ModelConfig, TextConfig, VisionConfig
from silc.config.fields import Gelu
from silc.interchange.assemble import Names, count, sizes
from silc.interchange.read.described import Description
from silc.interchange.shapes import mlp_ratio
from silc.interchange.tensors import Stored, of
from silc.interchange.timm_names import only_gelu

# Heads leave no trace in the weights: 64 numbers for each, but for towers of these widths (So400m and g-opt).
_HEADS = {1152: 16, 1536: 16}
_SIGLIP_2 = 256_000  # tokens
_TRUNK, _TEXT = "visual.trunk.", "text."


def from_shapes(where: Path, stored: Mapping[str, Stored], given: ModelConfig | None) -> Description:
    """What the tensors say of themselves.

    Args:
        where: for messages.
        stored: under the names of :class:`silc.model.SilcModel`.
        given: sizes of a configuration; of a tower of the same width they say the heads and the kind of GELU.

    Raises ValueError for tensors that are no such model's.
    """
    names = Names(where, stored)

    def shape(name: str, dimensions: int) -> tuple[int, ...]:
        return of(names(name), dimensions).shape

    width, channels, patch, _ = shape(_TRUNK + "patch_embed.proj.weight", 4)
    if channels != 3:
        raise ValueError(f"{where}: the image tower is for {channels} channels, here 3")
    positions = shape(_TRUNK + "pos_embed", 3)[1]
    rows, columns = shape(_TEXT + "token_embedding.weight", 2)
    assumed: dict[str, str] = {}
    heads = _heads("vision", width, given.vision if given else None, assumed)
    text_heads = _heads("text", columns, given.text if given else None, assumed)
    model = sizes(
        where,
        lambda: VisionConfig(
            image_size=square(where, positions) * patch,
            patch_size=patch,
            width=width,
            depth=count(stored, _TRUNK + "blocks."),
            heads=heads,
            mlp_ratio=mlp_ratio(width, shape(_TRUNK + "blocks.0.mlp.fc1.weight", 2)[0]),
        ),
        lambda: TextConfig(
            context_length=shape(_TEXT + "positional_embedding", 2)[0],
            vocab_size=rows,
            width=columns,
            depth=count(stored, _TEXT + "transformer.resblocks."),
            heads=text_heads,
            mlp_ratio=mlp_ratio(columns, shape(_TEXT + "transformer.resblocks.0.mlp.c_fc.weight", 2)[0]),
        ),
    )
    model.vision.gelu = _gelu("vision", model.vision, given.vision if given else None, _timms(model.vision), assumed)
    model.text.gelu = _gelu("text", model.text, given.text if given else None, _siglips(model.text), assumed)
    return Description(model=model, sigmoid="logit_bias" in stored, assumed=assumed)


def square(where: Path, positions: int) -> int:
    """Rows of a square grid of patches. Raises ValueError for a number that is no square."""
    side = math.isqrt(positions)
    if side * side != positions or not side:
        raise ValueError(f"{where}: {positions} positions of patches are no square grid")
    return side


def _heads(tower: str, width: int, given: VisionConfig | TextConfig | None, assumed: dict[str, str]) -> int:
    """Heads of a tower, and where they are from."""
    if given is not None and given.width == width:
        heads, why = given.heads, "as configured"
    else:
        heads = _HEADS.get(width, max(1, width // 64))
        why = "as SigLIP's towers of this width have" if width in _HEADS else "at 64 numbers a head, as usual"
    assumed[f"model.{tower}.heads"] = f"{heads}, {why}, since the file does not say"
    return heads


def _gelu(
    tower: str,
    found: VisionConfig | TextConfig,
    given: VisionConfig | TextConfig | None,
    known: tuple[Gelu, str] | None,
    assumed: dict[str, str],
) -> Gelu:
    """GELU of a tower, and where it is from. known: that of a released model of these sizes, and which."""
    gelu, why = known or ("exact", "as open_clip's towers have it where nothing else is said")
    if given is not None and given.width == found.width:
        differs = known is not None and gelu != given.gelu
        gelu, why = given.gelu, f"as configured, though {gelu} would be {why}" if differs else "as configured"
    assumed[f"model.{tower}.gelu"] = f"{gelu}, {why}, since the file does not say"
    return gelu


def _timms(vision: VisionConfig) -> tuple[Gelu, str] | None:
    known = only_gelu(vision)
    return None if known is None else (known[0], f"as timm's {known[1]} has it")


def _siglips(text: TextConfig) -> tuple[Gelu, str] | None:
    if text.vocab_size != _SIGLIP_2:
        return None
    return "tanh", f"as SigLIP 2 has it, whose vocabulary is of {_SIGLIP_2:,} tokens"
