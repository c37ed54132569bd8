"""Which image towers timm knows by name, and the sizes that a name stands for."""

from __future__ import annotations

from silc.config import VisionConfig
from silc.model.timm_tower import tower_sizes

# (patch, width, depth, heads, mlp_ratio) -> timm's name without the image size, and the image sizes it has with exact
# GELU (vit_large_patch16_siglip_512 and all of vit_so400m_patch16_siglip use the tanh approximation).
_TIMM_NAMES: dict[tuple[int, int, int, int, float], tuple[str, tuple[int, ...]]] = {
    (16, 768, 12, 12, 4.0): ("vit_base_patch16_siglip", (224, 256, 384, 512)),
    (16, 1024, 24, 16, 4.0): ("vit_large_patch16_siglip", (256, 384)),
    (14, 1152, 27, 16, 3.7362): ("vit_so400m_patch14_siglip", (224, 378)),
}


def timm_name(vision: VisionConfig) -> str | None:
    """timm's name for an image tower of these sizes, or None if it has none."""
    if vision.gelu != "exact":
        return None
    sizes = (vision.patch_size, vision.width, vision.depth, vision.heads, vision.mlp_ratio)
    stem, images = _TIMM_NAMES.get(sizes, ("", ()))
    return f"{stem}_{vision.image_size}" if vision.image_size in images else None


def named_sizes(name: str) -> VisionConfig | None:
    """Sizes of a tower that :func:`timm_name` or :func:`silc.model.timm_tower.tower_name` named; None for another."""
    for (patch, width, depth, heads, ratio), (stem, images) in _TIMM_NAMES.items():
        for image in images:
            if name == f"{stem}_{image}":
                return VisionConfig(
                    image_size=image, patch_size=patch, width=width, depth=depth, heads=heads, mlp_ratio=ratio
                )
    return tower_sizes(name)
