"""Captions to tokens, by open_clip's tokenizers, in bounded time and memory whatever a caption holds."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Protocol

from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from torch import Tensor

OPEN_CLIP_BPE = "open_clip_bpe"
RECENT = 32768  # texts whose tokens are cached
RECENT_BYTES = 16 << 20
WORDS = 65536  # words whose tokens are cached
WORDS_BYTES = 8 << 20
LONGEST_TEXT = 65536  # characters of a text that are read, at most
PER_TOKEN, LEAST = 64, 4096  # characters that are read for each token of the context, and at least
SPARE = 8  # tokens of a long word that are found beyond those needed: the cut may change the last of them
ENTRY = 100  # bytes of a dictionary's entry, about


class Tokenizer(Protocol):
    """Texts -> int64 [len(texts), context_length], padded; a longer text is truncated and keeps its end token.

    Of a text longer than :func:`longest_text`, without white space at its start, the rest is not read. That changes
    its tokens only if those characters hold fewer tokens than the context, which are 64 for each of them, or if
    open_clip's repair of wrongly decoded characters, which looks at whole lines, would find its reason after them. The
    time of that repair grows with the square of a text's length: "&amp;amp;amp;..." is resolved once for each "amp;".
    """

    vocab_size: int

    def __call__(self, texts: list[str]) -> Tensor: ...


class _Bounded(dict[str, Any]):
    """A cache that starts anew when it is full, with `kept` in it. What would take a tenth of it is not kept."""

    def __init__(self, entries: int, size: int, kept: Mapping[str, Any] | None = None) -> None:
        super().__init__(kept or {})
        self._entries, self._size, self._kept = entries, size, dict(kept or {})
        self.held = 0  # bytes, about

    def __reduce__(self) -> tuple:
        return _Bounded, (self._entries, self._size, self._kept)  # a process begins with an empty cache

    def __setitem__(self, key: str, value: Any) -> None:
        size = sys.getsizeof(key) + sys.getsizeof(value) + ENTRY
        if size > self._size // 10:
            return
        if len(self) >= self._entries or self.held + size > self._size:
            self.clear()
            self.update(self._kept)
            self.held = 0
        self.held += size
        super().__setitem__(key, value)


class _OpenClip(SimpleTokenizer):
    """open_clip's tokens, to the length of the context.

    - The tokens of recent texts are cached: open_clip's cleaning of a text takes longer than decoding a small image.
    - open_clip's own cache of words, which grows without end, is bounded.
    - The time of its merging grows with the square of a word's length, so that a long word is cut where its beginning
      holds all the tokens that can be used.
    """

    cache: dict[str, str]

    def __init__(self, context_length: int) -> None:
        super().__init__(context_length=context_length)
        self.cache = _Bounded(WORDS, WORDS_BYTES, kept=self.cache)
        self._context, self._longest_text = context_length, longest_text(context_length)
        self._recent = _Bounded(RECENT, RECENT_BYTES)
        longest = max(len(token.removesuffix("</w>")) for token in self.encoder)
        self._longest_word = longest * (context_length + SPARE)  # bytes

    def encode(self, text: str) -> list[int]:
        """The first tokens of a text: all of them, or at least as many as the context has."""
        text = _beginning(text, self._longest_text)
        tokens: list[int] | None = self._recent.get(text)
        if tokens is None:
            tokens = self._recent[text] = self._encode(text)
        return tokens

    def _encode(self, text: str) -> list[int]:
        tokens: list[int] = []
        for match in self.pat.finditer(self.clean_fn(text)):
            word = "".join(self.byte_encoder[byte] for byte in match[0].encode()[: self._longest_word])
            tokens += (self.encoder[piece] for piece in self.bpe(word).split(" "))
            if len(tokens) >= self._context:
                break
        return tokens


class _HuggingFace(HFTokenizer):
    @property
    def vocab_size(self) -> int:
        return len(self.tokenizer)

    def __call__(self, texts: list[str], context_length: int | None = None) -> Tensor:
        longest = longest_text(context_length or self.context_length)
        return super().__call__([_beginning(text, longest) for text in texts], context_length)


def longest_text(context_length: int) -> int:
    """Characters of a text that are read for so many tokens."""
    return min(LONGEST_TEXT, max(LEAST, PER_TOKEN * context_length))


def _beginning(text: str, longest: int) -> str:
    return text if len(text) <= longest else text.lstrip()[:longest]


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
        # Named, since else transformers may ask at the terminal whether code in the folder is to be run.
        return _HuggingFace(name, context_length=context_length, trust_remote_code=False)
    except (ImportError, OSError, ValueError) as error:
        raise ValueError(
            f"data.tokenizer={name!r} cannot be loaded ({error}); use {OPEN_CLIP_BPE!r}, or install transformers and "
            "give a tokenizer's name or folder"
        ) from error
