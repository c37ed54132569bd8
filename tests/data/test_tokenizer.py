"""Tokens are open_clip's."""

from __future__ import annotations

import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer

from silc.data import build_tokenizer, tokenizer

TEXTS = ["a red apple and a dog", "Caf\u00e9 &amp; cr\u00e8me", "", "words " * 40, "a red apple and a dog"]


def test_agrees_with_open_clip():
    ours = build_tokenizer("open_clip_bpe", 16)
    tokens = ours(TEXTS)
    assert tokens.shape == (5, 16)
    assert tokens.dtype == torch.int64
    assert torch.equal(tokens, SimpleTokenizer(context_length=16)(TEXTS))
    assert torch.equal(tokens, ours(TEXTS))
    assert ours.vocab_size == 49408


def test_a_cut_text_keeps_its_end():
    ours = build_tokenizer("open_clip_bpe", 8)
    assert ours(["words " * 40])[0, -1] == ours.eot_token_id


def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(tokenizer, "RECENT", 3)
    ours = build_tokenizer("open_clip_bpe", 8)
    texts = [f"number {i}" for i in range(10)]
    assert torch.equal(ours(texts), SimpleTokenizer(context_length=8)(texts))
    assert len(ours._recent) <= 3


def test_an_unknown_tokenizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data\.tokenizer=.*open_clip_bpe"):
        build_tokenizer(str(tmp_path / "nothing"), 16)
