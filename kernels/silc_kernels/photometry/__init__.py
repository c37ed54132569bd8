"""DINO's photometric augmentations of byte views, from rows of parameters that were drawn before."""

from .ops import photometric

__all__ = ["photometric"]
