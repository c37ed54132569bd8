"""SILC: image-text contrastive pretraining with local-to-global self-distillation (arXiv 2310.13355)."""
