"""Self-distillation cross-entropy (SILC, DINO), of logits and of the features before them; its center."""

from .center import center_update
from .ops import distill_head_loss, distill_loss

__all__ = ["center_update", "distill_head_loss", "distill_loss"]
