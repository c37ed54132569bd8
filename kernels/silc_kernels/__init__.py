"""The ops of SILC that eager code makes expensive: each with one public face, and backends behind a dispatcher."""

from .common.dispatch import report
from .contrastive import contrastive_loss
from .crops import crop_resize
from .distill import center_update, distill_head_loss, distill_loss
from .patch_embedding import MultiCropPatchEmbed, PackedLayout, patch_embed, resize_positions
from .photometry import photometric

__version__ = "0.1.0"

__all__ = [
    "MultiCropPatchEmbed",
    "PackedLayout",
    "__version__",
    "center_update",
    "contrastive_loss",
    "crop_resize",
    "distill_head_loss",
    "distill_loss",
    "patch_embed",
    "photometric",
    "report",
    "resize_positions",
]
