"""Names for image towers of any size, which timm, and so open_clip, understands once this module is imported.

timm knows an architecture by its name alone, and open_clip hands nothing but that name on. A name of timm may carry a
tag behind a dot, which timm gives to the architecture's function; this one, `silc_vit`, reads its sizes there:

    import open_clip
    import silc.model.timm_tower

    open_clip.create_model("local-dir:anywhere/exported")  # with timm_model_name silc_vit.image48_patch8_...

So an export says all that is needed to build it, and holds no path. Without the import timm ends with "Unknown model
(silc_vit)". open_clip requires timm, so it is installed.
"""

from __future__ import annotations

import re
from typing import Any

from timm.models import create_model, register_model
from torch import nn

from silc.config import VisionConfig

BASE = "vit_base_patch16_siglip_256"  # the family: attention pooling, no class token
_SIZES = ("image", "patch", "width", "depth", "heads", "mlp")
_NAME = re.compile(r"silc_vit\." + "_".join(rf"{size}([1-9]\d{{0,5}})" for size in _SIZES) + "(_tanh)?", re.ASCII)


def tower_name(vision: VisionConfig) -> str:
    """The name that stands for these sizes; `_tanh` at its end, where GELU is the approximation by tanh."""
    hidden = int(vision.width * vision.mlp_ratio)
    return (
        f"silc_vit.image{vision.image_size}_patch{vision.patch_size}_width{vision.width}_depth{vision.depth}"
        f"_heads{vision.heads}_mlp{hidden}{'_tanh' if vision.gelu == 'tanh' else ''}"
    )


def tower_sizes(name: str) -> VisionConfig | None:
    """The sizes that a name of :func:`tower_name` stands for; None for a name of another kind."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    image, patch, width, depth, heads, hidden = map(int, match.groups()[:-1])
    # Not hidden / width: 4304 / 1152 is 3.7361, which times 1152 is no integer again.
    ratio = (hidden + 0.5) / width
    sizes = {"image_size": image, "patch_size": patch, "width": width, "depth": depth, "heads": heads}
    return VisionConfig(**sizes, mlp_ratio=ratio, gelu="tanh" if match.group(7) else "exact")


def timm_arguments(vision: VisionConfig) -> dict[str, Any]:
    """The sizes as the arguments of timm's VisionTransformer."""
    arguments: dict[str, Any] = {
        "img_size": vision.image_size,
        "patch_size": vision.patch_size,
        "embed_dim": vision.width,
        "depth": vision.depth,
        "num_heads": vision.heads,
        "mlp_ratio": vision.mlp_ratio,
    }
    if vision.gelu == "tanh":  # of the blocks and of the pool
        arguments["act_layer"] = "gelu_tanh"
    return arguments


@register_model
def silc_vit(pretrained: bool = False, pretrained_cfg: Any = None, **arguments: Any) -> nn.Module:
    """timm's function of the architecture; timm calls it.

    Args:
        pretrained: must be False; the weights are the export's.
        pretrained_cfg: the tag, that is the name's part behind the dot.
        arguments: of timm's VisionTransformer; they win over the tag's.

    Raises:
        ValueError: the tag names no sizes.
    """
    vision = tower_sizes(f"silc_vit.{pretrained_cfg}")
    if vision is None or pretrained:
        raise ValueError(
            f"silc_vit.{pretrained_cfg}: write sizes, as in {tower_name(VisionConfig())}, and pretrained=False; the "
            "weights are in the export"
        )
    arguments.pop("pretrained_cfg_overlay", None)
    size = {"input_size": (3, vision.image_size, vision.image_size), "num_classes": 0}
    return create_model(BASE, pretrained_cfg_overlay=size, **timm_arguments(vision) | arguments)
