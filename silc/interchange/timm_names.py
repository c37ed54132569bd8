"""Which image towers timm knows by name, and the sizes that a name stands for."""

from __future__ import annotations

from dataclasses import replace

from silc.config import VisionConfig
from silc.config.fields import Gelu
from silc.model.timm_tower import tower_sizes

Family = dict[tuple[int, int, int, int, float], tuple[str, tuple[int, ...]]]

# (patch, width, depth, heads, mlp_ratio) -> timm's name without the image size, and the image sizes it has: with exact
# GELU, and with the tanh approximation.
_TIMM_NAMES: Family = {
    (16, 768, 12, 12, 4.0): ("vit_base_patch16_siglip", (224, 256, 384, 512)),
    (16, 1024, 24, 16, 4.0): ("vit_large_patch16_siglip", (256, 384)),
    (14, 1152, 27, 16, 3.7362): ("vit_so400m_patch14_siglip", (224, 378)),
}
_TANH_NAMES: Family = {
    (32, 768, 12, 12, 4.0): ("vit_base_patch32_siglip", (256,)),
    (16, 1024, 24, 16, 4.0): ("vit_large_patch16_siglip", (512,)),
    (16, 1152, 27, 16, 3.7362): ("vit_so400m_patch16_siglip", (256, 384, 512)),
    (16, 1536, 40, 16, 4.0): ("vit_giantopt_patch16_siglip", (256, 384)),
}
_FAMILIES: tuple[tuple[Gelu, Family], ...] = (("exact", _TIMM_NAMES), ("tanh", _TANH_NAMES))
# Patches of 14 px leave 6 of the 384 px out: the same grid, and table, as 378 px. Only read: 378 has a name of its own.
_CUT = {"vit_so400m_patch14_siglip_384": "vit_so400m_patch14_siglip_378"}


def timm_name(vision: VisionConfig) -> str | None:
    """timm's name for an image tower of these sizes, or None if it has none."""
    hidden = int(vision.width * vision.mlp_ratio)
    sizes = (vision.patch_size, vision.width, vision.depth, vision.heads)
    for (*known, ratio), (stem, images) in (_TANH_NAMES if vision.gelu == "tanh" else _TIMM_NAMES).items():
        if sizes == tuple(known) and hidden == int(vision.width * ratio) and vision.image_size in images:
            return f"{stem}_{vision.image_size}"
    return None


def named_sizes(name: str) -> VisionConfig | None:
    """Sizes of a tower by timm's name, with or without a tag of timm's weights behind a dot, or by the name that
    :func:`silc.model.timm_tower.tower_name` gave it; None for another.

    Raises pydantic's ValidationError, a ValueError, for sizes beyond the limits of :mod:`silc.config`.
    """
    plain = name.partition(".")[0]
    plain = _CUT.get(plain, plain)
    for gelu, family in _FAMILIES:
        for (patch, width, depth, heads, ratio), (stem, images) in family.items():
            for image in images:
                if plain == f"{stem}_{image}":
                    sizes = {"image_size": image, "patch_size": patch, "width": width, "depth": depth, "heads": heads}
                    return VisionConfig(**sizes, mlp_ratio=ratio, gelu=gelu)
    return tower_sizes(name)


def only_gelu(vision: VisionConfig) -> tuple[Gelu, str] | None:
    """The kind of GELU of the one tower that timm has of these sizes, whatever is set here, and its name; None where
    timm has none, or one of each kind.
    """
    named = {gelu: timm_name(replace(vision, gelu=gelu)) for gelu, _ in _FAMILIES}
    found = [(gelu, name) for gelu, name in named.items() if name is not None]
    return found[0] if len(found) == 1 else None


def is_cut(name: str) -> bool:
    """Whether the tower of a name leaves the edge of its images out, since its patches do not divide them."""
    return name.partition(".")[0] in _CUT
