"""Image-text contrastive loss over all ranks, softmax (CLIP) and sigmoid (SigLIP)."""

from .ops import contrastive_loss

__all__ = ["contrastive_loss"]
