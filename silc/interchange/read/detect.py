"""Which format a file or folder has, and its reader."""

from __future__ import annotations

from pathlib import Path

from silc.config import ModelConfig
from silc.interchange.read import open_clip
from silc.interchange.source import Source


def is_readable(path: Path) -> bool:
    """Whether :func:`read` is the one to ask: what is there looks like a model in one of its formats."""
    return open_clip.is_export(path)


def read(path: Path, *, sizes: ModelConfig | None = None) -> Source:
    """A model of another library, or an export of this one.

    Args:
        path: of the file or folder.
        sizes: those of the configuration, for what the files do not say; None: the usual ones.

    Raises:
        ValueError: not a model in one of the formats, a damaged file, or another architecture; the message says which.
    """
    config, weights = open_clip.load_export(path)
    tensors = dict(weights)
    scale, bias = tensors.pop("logit_scale"), tensors.pop("logit_bias", None)
    return Source(
        path=path,
        kind="an export",
        model=config.model,
        weights=tensors,
        logit_scale=scale.item(),
        logit_bias=None if bias is None else bias.item(),
        mean=config.data.mean,
        std=config.data.std,
        tokenizer=config.data.tokenizer,
    )
