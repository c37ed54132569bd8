"""Crops of decoded images of any sizes, resized by torch's own integer arithmetic."""

from .ops import crop_resize

__all__ = ["crop_resize"]
