"""Layer-wise learning rates: the further a layer is from its tower's output, the slower it learns.

As BEiT (arXiv 2106.08254) counts: embeddings are layer 0, block i is layer i + 1, and what follows the N blocks (final
norm, pooling, projection) layer N + 1. The multiplier is decay ** (N + 1 - layer): 1 at the output, `decay` in the last
block. timm counts alike, but for the final norm, which it takes to the last block.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from silc.config import OptimConfig

_EMBEDDINGS = {
    "visual.": re.compile(r"trunk\.(pos_embed|patch_embed\.)"),
    "text.": re.compile(r"(token_embedding\.|positional_embedding)"),
}
_BLOCKS = {
    "visual.": re.compile(r"trunk\.blocks\.(\d+)\."),
    "text.": re.compile(r"transformer\.resblocks\.(\d+)\."),
}


def layer_scales(names: Sequence[str], optim: OptimConfig) -> dict[str, float]:
    """Multiplier of the learning rate by parameter name; 1 outside the towers. names: of all parameters of a model."""
    scales = dict.fromkeys(names, 1.0)
    for prefix, decay in (("visual.", optim.vision_layer_decay), ("text.", optim.text_layer_decay)):
        layers = {name: _layer(name, prefix) for name in names if name.startswith(prefix)}
        last = 1 + max((layer for layer in layers.values() if layer is not None), default=0)
        scales |= {name: decay ** (last - (last if layer is None else layer)) for name, layer in layers.items()}
    return scales


def _layer(name: str, prefix: str) -> int | None:
    """Number of a parameter's layer; None: it follows the blocks."""
    tail = name.removeprefix(prefix)
    if _EMBEDDINGS[prefix].match(tail):
        return 0
    block = _BLOCKS[prefix].match(tail)
    return None if block is None else int(block.group(1)) + 1
