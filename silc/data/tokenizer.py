"""Captions to tokens, by open_clip's tokenizers, in bounded time and memory whatever a caption holds."""

from __future__ import annotations

import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from silc.config import Config
from silc.data.recent import Bounded, beginning, goes_on, longest_text
from silc.data.tokens import Clean, Cleaned, Tokenizer, Tokens

OPEN_CLIP_BPE = "open_clip_bpe"
RECENT = 32768  # texts whose tokens are cached
RECENT_BYTES = 16 << 20
WORDS = 65536  # words whose tokens are cached
WORDS_BYTES = 8 << 20
SPARE = 8  # tokens of a long word that are found beyond those needed: the cut may change the last of them


class _OpenClip(SimpleTokenizer):
    """open_clip's tokens, to the length of the context.

    - The tokens of recent texts are cached: open_clip's cleaning of a text takes longer than decoding a small image.
    - open_clip's own cache of words, which grows without end, is bounded.
    - The time of its merging grows with the square of a word's length, so that a long word is cut where its beginning
      holds all the tokens that can be used.
    """

    cache: dict[str, str]

    def __init__(self, context_length: int, clean: Clean) -> None:
        self.clean: Cleaned = "lower" if clean == "auto" else clean
        super().__init__(context_length=context_length, clean=self.clean)
        self.cache = Bounded(WORDS, WORDS_BYTES, kept=self.cache)
        self._context, self._longest_text = context_length, longest_text(context_length)
        self._recent = Bounded(RECENT, RECENT_BYTES)
        longest = max(len(token.removesuffix("</w>")) for token in self.encoder)
        self._longest_word = longest * (context_length + SPARE)  # bytes

    def __call__(self, texts: str | list[str], context_length: int | None = None) -> Tensor:
        assert context_length in (None, self._context), "what is cached ends with the context"
        return self.tokenize([texts] if isinstance(texts, str) else texts).ids

    def tokenize(self, texts: list[str]) -> Tokens:
        """See :class:`silc.data.tokens.Tokenizer`."""
        ids = torch.zeros(len(texts), self._context, dtype=torch.int64)
        truncated = 0
        for row, text in zip(ids, texts, strict=True):
            tokens = [self.sot_token_id, *self.encode(text), self.eot_token_id]
            if len(tokens) > self._context:
                tokens[self._context - 1 :] = [self.eot_token_id]
                truncated += 1
            elif goes_on(text, self._longest_text):
                truncated += 1
            row[: len(tokens)] = torch.tensor(tokens)
        return Tokens(ids, truncated)

    def count(self, text: str) -> int:
        """See :class:`silc.data.tokens.Tokenizer`."""
        return min(self._context, len(self.encode(text)) + 2)

    def encode(self, text: str) -> list[int]:
        """The first tokens of a text: all of them, or at least as many as the context has."""
        text = beginning(text, self._longest_text)
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


def build_tokenizer(name: str, context_length: int, clean: Clean = "auto") -> Tokenizer:
    """The tokenizer of a run.

    Args:
        name: "open_clip_bpe" (CLIP's, which open_clip carries), or a Hugging Face tokenizer's name or folder.
        context_length: tokens that a text is padded or truncated to.
        clean: see `data.tokenizer_clean`.

    Raises:
        ValueError: a Hugging Face tokenizer that cannot be loaded, or that a text tower cannot use: see
            :mod:`silc.data.hf_tokenizer`.
    """
    if name == OPEN_CLIP_BPE:
        return _OpenClip(context_length, clean)
    from silc.data.hf_tokenizer import load  # transformers is an extra, and takes seconds to import

    return load(name, context_length, clean)


def tokenizer_of(config: Config) -> Tokenizer:
    """The tokenizer of a configuration, whose ids its text tower knows.

    Raises:
        ValueError: as :func:`build_tokenizer`, and where it has more tokens than the model's table.
    """
    data, text = config.data, config.model.text
    tokenizer = build_tokenizer(data.tokenizer, text.context_length, data.tokenizer_clean)
    check_vocabulary(tokenizer, config)
    return tokenizer


def check_vocabulary(tokenizer: Tokenizer, config: Config) -> None:
    """Raises ValueError where the tokenizer of a configuration has more tokens than the model's table."""
    rows = config.model.text.vocab_size
    if tokenizer.vocab_size > rows:
        raise ValueError(
            f"model.text.vocab_size={rows} is less than the {tokenizer.vocab_size} tokens of "
            f"data.tokenizer={config.data.tokenizer}; set at least that many"
        )
