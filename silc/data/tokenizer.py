"""Captions to tokens, by open_clip's tokenizers."""

from __future__ import annotations

from typing import Protocol

from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from torch import Tensor

OPEN_CLIP_BPE = "open_clip_bpe"
RECENT = 32768  # texts whose tokens are cached


class Tokenizer(Protocol):
    """Texts -> int64 [len(texts), context_length], padded; a longer text is truncated and keeps its end token."""

    vocab_size: int

    def __call__(self, texts: list[str]) -> Tensor: ...


class _OpenClip(SimpleTokenizer):
    """Caches the tokens of recent texts: open_clip's cleaning of a text takes longer than decoding a small image."""

    def __init__(self, context_length: int) -> None:
        super().__init__(context_length=context_length)
        self._recent: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        tokens = self._recent.get(text)
        if tokens is None:
            if len(self._recent) == RECENT:
                self._recent.clear()
            tokens = self._recent[text] = super().encode(text)
        return tokens


class _HuggingFace(HFTokenizer):
    @property
    def vocab_size(self) -> int:
        return len(self.tokenizer)


def build_tokenizer(name: str, context_length: int) -> Tokenizer:
    """The tokenizer of a run.

    Args:
        name: "open_clip_bpe" (CLIP's, which open_clip carries), or a Hugging Face tokenizer's name or folder.
        context_length: tokens that a text is padded or truncated to.

    Raises:
        ValueError: a Hugging Face tokenizer that cannot be loaded.
    """
    if name == OPEN_CLIP_BPE:
        return _OpenClip(context_length)
    try:
        return _HuggingFace(name, context_length=context_length)
    except (ImportError, OSError, ValueError) as error:
        raise ValueError(
            f"data.tokenizer={name!r} cannot be loaded ({error}); use {OPEN_CLIP_BPE!r}, or install transformers and "
            "give a tokenizer's name or folder"
        ) from error
