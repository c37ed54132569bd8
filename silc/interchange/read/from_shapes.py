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

# Heads leave no trace in the weights: 64 numbers for each, but for towers of these widths (So400m and g-opt).
_HEADS = {1152: 16, 1536: 16}
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
    heads, gelu = _unsaid("vision", width, given.vision if given else None, assumed)
    text_heads, text_gelu = _unsaid("text", columns, given.text if given else None, assumed)
    model = sizes(
        where,
        lambda: VisionConfig(
            image_size=square(where, positions) * patch,
            patch_size=patch,
            width=width,
            depth=count(stored, _TRUNK + "blocks."),
            heads=heads,
            mlp_ratio=mlp_ratio(width, shape(_TRUNK + "blocks.0.mlp.fc1.weight", 2)[0]),
            gelu=gelu,
        ),
        lambda: TextConfig(
            context_length=shape(_TEXT + "positional_embedding", 2)[0],
            vocab_size=rows,
            width=columns,
            depth=count(stored, _TEXT + "transformer.resblocks."),
            heads=text_heads,
            mlp_ratio=mlp_ratio(columns, shape(_TEXT + "transformer.resblocks.0.mlp.c_fc.weight", 2)[0]),
            gelu=text_gelu,
        ),
    )
    return Description(model=model, sigmoid="logit_bias" in stored, assumed=assumed)


def square(where: Path, positions: int) -> int:
    """Rows of a square grid of patches. Raises ValueError for a number that is no square."""
    side = math.isqrt(positions)
    if side * side != positions or not side:
        raise ValueError(f"{where}: {positions} positions of patches are no square grid")
    return side


def _unsaid(
    tower: str, width: int, given: VisionConfig | TextConfig | None, assumed: dict[str, str]
) -> tuple[int, Gelu]:
    """Heads and GELU of a tower, and where they are from."""
    if given is not None and given.width == width:
        heads, gelu, why = given.heads, given.gelu, "as configured, since the file does not say"
    else:
        heads, gelu, why = _HEADS.get(width, max(1, width // 64)), "exact", "as usual, since the file does not say"
    assumed[f"model.{tower}.heads"] = f"{heads}, {why}"
    assumed[f"model.{tower}.gelu"] = f"{gelu}, {why}"
    return heads, gelu
