"""The ops of SILC that eager code makes expensive: each with one public face, and backends behind a dispatcher."""

from . import reference
from .backends import register_all
from .center import center_update
from .contrastive import contrastive_loss
from .dispatch import report
from .distill import distill_head_loss, distill_loss
from .multi_crop import MultiCropPatchEmbed
from .packed import PackedLayout
from .patches import patch_embed
from .positions import resize_positions

register_all()

__all__ = [
    "MultiCropPatchEmbed",
    "PackedLayout",
    "center_update",
    "contrastive_loss",
    "distill_head_loss",
    "distill_loss",
    "patch_embed",
    "reference",
    "report",
    "resize_positions",
]
