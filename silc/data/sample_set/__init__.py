"""The embedded sample set: drawings by eight artists, and the scenes with captions and masks rendered from them."""

from silc.data.sample_set.cache import SampleSet, default_root, ensure_sample

__all__ = ["SampleSet", "default_root", "ensure_sample"]
