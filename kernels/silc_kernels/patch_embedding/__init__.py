"""Multi-crop patch embedding: byte crops of several resolutions to one packed token sequence."""

from .module import MultiCropPatchEmbed
from .ops import patch_embed
from .packed import PackedLayout
from .positions import resize_positions

__all__ = ["MultiCropPatchEmbed", "PackedLayout", "patch_embed", "resize_positions"]
