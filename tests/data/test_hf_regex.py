"""Expressions of tokenizers: those in use are taken, those without a bound refused."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex

from silc.data.hf_regex import check_regex

PATH = Path("tokenizer.json")
NOT_WORDS, UPPER, LOWER = r"[^\r\n\p{L}\p{N}]", r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
SHORT, SPACES = "(?i:'s|'t|'re|'ve|'m|'ll|'d)", r"\s+(?!\S)|\s+"
SIGNS = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""
IN_USE = {
    "CLIP": r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    "GPT-2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|" + SPACES,
    "GPT-4": rf"{SHORT}|{NOT_WORDS}?+\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]++[\r\n]*|\s*[\r\n]|{SPACES}",
    "GPT-4o": rf"{NOT_WORDS}?{UPPER}*{LOWER}+{SHORT}?|{NOT_WORDS}?{UPPER}+{LOWER}*{SHORT}?|\p{{N}}{{1,3}}"
    rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|{SPACES}",
    "BLOOM": r" ?[^(\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+",
    "DeepSeek": rf"{SIGNS}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[\r\n]*|{SPACES}",
    "han": r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}&&[^\p{Han}]]*[\p{Ll}&&[^\p{Han}]]+",
    "punctuation": r"[!-/:-@\[-`{-~]",
    "sigma": "(?<=\\p{L})\u03a3(?!\\p{L})",
    "spaces": " {2,}",
    "ends": r"\A +| +\z",
    "digits": r"\d{3}(?=\d)|[[:digit:]]{1,3}|(?<name>x)?",
    "option": r"(?i)abc|\x{41}",
}


@pytest.mark.parametrize("name", IN_USE)
def test_those_in_use_are_taken(name):
    Regex(IN_USE[name])  # the library knows them
    check_regex(PATH, IN_USE[name])
    check_regex(PATH, None)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        (r"\[(a+)+[bc]", "repeats a group"),
        ("(a+)+b", "repeats a group"),
        ("(?:a|aa){3}", "repeats a group"),
        ("(a)?+b", "repeats a group"),
        ("a{1,2}+b", "repeats a group, or a repeat"),
        ("a+*", "repeats a group, or a repeat"),
        (r"[\]](a+)+[b]", "repeats a group"),
        ("[[a]](a+)+[b]", "repeats a group"),
        ("[]](a+)+[b]", "class of characters"),
        ("[^]](a+)+[b]", "class of characters"),
        ("[a", "class of characters"),
        (r"\c[(a+)+b]", "not read here"),
        (r"(?x)#[", "not read here"),
        ("(?#[)(a+)+b", "not read here"),
        (r"(a)\1", "not read here"),
        (r"(?<n>a\g<n>*)", "not read here"),
        ("(?~a)", "not read here"),
        ("(*FAIL)", "not read here"),
        ("a*(?i)b*|c*", "after its start"),
        ("a)", "not open"),
        ("\\", "not read here"),
        ("q" + "[ax]*" * 10 + "[yz]", "repeats too often"),
        ("q" + "[ax]{0,1000}" * 10 + "[yz]", "repeats too often"),
        ("q" + "[ax]?" * 200 + "[yz]", "repeats too often"),
        ("q" + "[ax]{1}?" * 200 + "[yz]", "repeats too often"),
        ("q" + "(a|[ax])" * 100 + "[yz]", "repeats too often"),
        ("(q" + "[ax]*" * 3 + "|b)" + "[ax]*" * 3, "repeats too often"),
        ("a{100000}", "repeats too often"),
        ("a" * 3000, "more than 2048"),
        (3, "more than 2048"),
    ],
)
def test_what_has_no_bound_is_refused(pattern, words):
    with pytest.raises(ValueError, match=rf"tokenizer\.json: .*{words}") as caught:
        check_regex(PATH, pattern)
    assert len(str(caught.value)) < 300


@given(st.text("ab[]()\\|*+?{}1,^-:?i<>&", max_size=30))
def test_on_any_expression(pattern):
    """It is taken or refused, and nothing else."""
    with contextlib.suppress(ValueError):
        check_regex(PATH, pattern)
