"""What a tokenizer is."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

from torch import Tensor

Cleaned = Literal["whitespace", "lower", "canonicalize"]
Clean = Literal["auto", Cleaned]


class Tokens(NamedTuple):
    """Tokens of some texts. ids: int64 [texts, context_length]; truncated: how many texts were longer than that."""

    ids: Tensor
    truncated: int


class Tokenizer(Protocol):
    """Texts -> int64 [len(texts), context_length], padded; a longer text is truncated and keeps its end token.

    Of a text longer than :func:`silc.data.recent.longest_text`, without white space at its start, the rest is not read.
    That changes its tokens only if those characters hold fewer tokens than the context, which are 64 for each of them,
    or if open_clip's repair of wrongly decoded characters, which looks at whole lines, would find its reason after
    them. The time of that repair grows with the square of a text's length: "&amp;amp;amp;..." is resolved once for each
    "amp;".

    Attributes:
        vocab_size: one more than the largest id that it gives.
        clean: what open_clip does to a text first, see `data.tokenizer_clean`.
    """

    vocab_size: int
    clean: Cleaned

    def __call__(self, texts: list[str]) -> Tensor: ...

    def tokenize(self, texts: list[str]) -> Tokens:
        """The tokens, and how many of the texts were truncated."""
        ...

    def count(self, text: str) -> int:
        """Tokens of a text, those for its start and end included; at most the context length."""
        ...
