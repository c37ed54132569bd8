"""Tokens are open_clip's, and no caption makes them slow or large."""

from __future__ import annotations

import pickle
import sys
from functools import cache

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from silc.data import build_tokenizer, recent, tokenizer
from silc.data.tokens import Tokenizer

TEXTS = ["a red apple and a dog", "Caf\u00e9 &amp; cr\u00e8me", "", "words " * 40, "a red apple and a dog"]
PIECES = [
    "<start_of_text>",
    "<end_of_text>",
    "&amp;lt;",
    "caf\u00c3\u00a9",
    "\u00e2\u20ac\u2122",
    "don't",
    "\u0130",
    "\n",
    "\x85",
    "\u3000",
    "...",
]


@cache
def ours(context: int) -> Tokenizer:
    return build_tokenizer("open_clip_bpe", context)


@cache
def theirs(context: int) -> SimpleTokenizer:
    return SimpleTokenizer(context_length=context)


def test_agrees_with_open_clip():
    tokens = ours(16)(TEXTS)
    assert tokens.shape == (5, 16)
    assert tokens.dtype == torch.int64
    assert torch.equal(tokens, SimpleTokenizer(context_length=16)(TEXTS))
    assert torch.equal(tokens, ours(16)(TEXTS))
    assert ours(16).vocab_size == 49408


@given(
    text=st.lists(st.one_of(st.text(max_size=12), st.sampled_from(PIECES), st.just(" ")), max_size=20).map("".join),
    context=st.sampled_from([2, 5, 16]),
)
@settings(max_examples=400, deadline=None)
def test_agrees_with_open_clip_on_any_text(text, context):
    text = text.encode("utf-8", "ignore").decode()  # a caption comes from utf-8
    assert torch.equal(ours(context)([text]), theirs(context)([text]))


@given(
    alphabet=st.sampled_from(
        ["ab", "abcdefghijklmnopqrstuvwxyz", "aeinst", "!.-", "\U0001f602\U0001f60d", "\u4e00\u4e8c", "o"]
    ),
    length=st.integers(1, 1500),
    seed=st.randoms(use_true_random=False),
    before=st.sampled_from(["", "a dog, "]),
)
@example(alphabet="o", length=100_000, seed=None, before="")
@settings(max_examples=60, deadline=None)
def test_a_long_word_has_open_clips_first_tokens(alphabet, length, seed, before):
    word = "".join(seed.choices(alphabet, k=length)) if seed else alphabet * length
    text = f"{before}{word} and more"
    assert ours(5)._longest_word == 32 * 13
    assert torch.equal(ours(5)([text]), theirs(5)([text]))


@given(
    words=st.lists(st.text("abcdefghij", min_size=1, max_size=9), min_size=1, max_size=30),
    space=st.text(" \n", max_size=9),
)
@settings(max_examples=15, deadline=None)
def test_a_long_text_has_open_clips_first_tokens(words, space):
    text = space + " ".join(words) + " "
    text *= recent.LONGEST_TEXT * 2 // len(text)
    assert torch.equal(ours(77)([text]), theirs(77)([text]))


def test_what_comes_after_the_limit_is_not_read():
    blank = " " * recent.LONGEST_TEXT
    assert torch.equal(ours(16)(["a dog" + blank + "runs"]), theirs(16)(["a dog"]))
    assert torch.equal(ours(16)([blank + "a dog"]), theirs(16)(["a dog"]))


def test_a_caption_of_any_size_is_cut_before_it_is_cleaned_and_merged(monkeypatch):
    mine = build_tokenizer("open_clip_bpe", 16)
    cleaned, merged = [], []
    clean, merge = mine.clean_fn, mine.bpe
    monkeypatch.setattr(mine, "clean_fn", lambda text: cleaned.append(len(text)) or clean(text))
    monkeypatch.setattr(mine, "bpe", lambda word: merged.append(len(word)) or merge(word))
    mine(["x" * 100_000_000, "a dog " * 1_000_000, " " * 10_000_000])
    assert max(cleaned) <= recent.longest_text(16)
    assert max(merged) <= 32 * (16 + tokenizer.SPARE)
    assert len(merged) <= 1 + 16
    assert mine._recent.held < 2**20


@pytest.mark.parametrize("piece", ["amp;", "\n", "&#", "\u00c3\u00a9", "e\u0301", "\u00e2\u20ac\u2122"])
@pytest.mark.timeout(20)
def test_no_caption_takes_long(piece):
    """At 65,536 characters the first took 18 s."""
    mine = build_tokenizer("open_clip_bpe", 64)
    mine([f"&{piece * 100_000}{n}" for n in range(5)])
    assert len(mine._recent) == 1  # what differs is not read


def test_what_is_read_grows_with_the_context():
    assert [recent.longest_text(n) for n in (3, 64, 77, 248, 65536)] == [4096, 4096, 4928, 15872, 65536]


def test_a_cut_text_keeps_its_end():
    mine = build_tokenizer("open_clip_bpe", 8)
    assert mine(["words " * 40])[0, -1] == mine.eot_token_id


@pytest.mark.parametrize(
    ("limits", "cached", "most"),
    [
        ({"RECENT": 3}, "_recent", 3),
        ({"RECENT_BYTES": 5000}, "_recent", 5000 // recent.ENTRY),
        ({"WORDS": 7}, "cache", 7),
        ({"WORDS_BYTES": 5000}, "cache", 2 + 5000 // recent.ENTRY),
    ],
)
def test_what_is_kept_is_bounded(monkeypatch, limits, cached, most):
    for name, value in limits.items():
        monkeypatch.setattr(tokenizer, name, value)
    mine = build_tokenizer("open_clip_bpe", 8)
    texts = [f"number{'abcdefghij'[i % 10]}{'klmnopqrst'[i // 10]}word <end_of_text> {i}" for i in range(100)]
    sizes = []
    for text in texts:
        assert torch.equal(mine([text]), theirs(8)([text]))
        sizes.append(len(getattr(mine, cached)))
    assert 1 < max(sizes) <= most
    assert getattr(mine, cached).held <= 10 * 2**20


def test_the_bound_in_bytes_is_kept():
    bounded = recent.Bounded(10**6, 100_000, kept={"a": "b"})
    for i in range(5000):
        bounded[f"word {i}"] = list(range(i % 50))
        real = sum(sys.getsizeof(key) + sys.getsizeof(value) for key, value in bounded.items())
        assert real <= 100_000 + 200
        assert bounded["a"] == "b"
    assert f"word {4999}" in bounded
    bounded["long"] = "x" * 20_000
    assert "long" not in bounded


def test_a_pickled_tokenizer_carries_no_cache():
    mine = build_tokenizer("open_clip_bpe", 8)
    empty = len(pickle.dumps(mine))
    mine([f"some words number {i}" for i in range(1000)])
    data = pickle.dumps(mine)
    assert len(data) == empty
    assert torch.equal(pickle.loads(data)(TEXTS), theirs(8)(TEXTS))


def test_an_unknown_tokenizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data\.tokenizer=.*open_clip_bpe"):
        build_tokenizer(str(tmp_path / "nothing"), 16)


@given(
    text=st.lists(st.sampled_from(["a", "dog ", "runs, ", "far "]), max_size=12).map("".join), context=st.integers(3, 9)
)
@settings(max_examples=60, deadline=None)
def test_truncated_texts_are_counted(text, context):
    """By the tokens of a context that cuts nothing."""
    whole = int((ours(64)([text]) > 0).sum())
    tokens = ours(context).tokenize([text, "a"])
    assert tokens.truncated == int(whole > context)
    assert torch.equal(tokens.ids, theirs(context)([text, "a"]))
    assert ours(context).count(text) == min(whole, context)


def test_a_text_that_is_not_read_to_its_end_counts_as_truncated():
    blank = " " * recent.longest_text(8)
    assert ours(8).tokenize(["a dog" + blank]).truncated == 0
    assert ours(8).tokenize(["a dog" + blank + "runs"]).truncated == 1


@pytest.mark.parametrize("clean", ["whitespace", "lower", "canonicalize"])
def test_texts_are_cleaned_as_open_clip_cleans_them(clean):
    mine = build_tokenizer("open_clip_bpe", 16, clean)
    texts = ["A Dog, in_the  park &amp; more!"]
    assert torch.equal(mine(texts), SimpleTokenizer(context_length=16, clean=clean)(texts))
    assert mine.clean == clean
    assert build_tokenizer("open_clip_bpe", 16).clean == "lower"
