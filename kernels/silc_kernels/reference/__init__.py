"""The ops in plain torch, chunked: the fast path on a CPU, the oracle of the kernels, any device and dtype."""

from .contrastive import contrastive_loss
from .distill import distill_loss
from .distill_head import distill_head_loss
from .patches import patch_embed

__all__ = ["contrastive_loss", "distill_head_loss", "distill_loss", "patch_embed"]
