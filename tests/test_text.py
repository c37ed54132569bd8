"""Words of messages: what depends on a number, and what strangers wrote."""

from __future__ import annotations

import pytest

from silc.text import plural, shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((1, "image"), "1 image"),
        ((0, "image"), "0 images"),
        ((2, "prompt"), "2 prompts"),
        ((1, "class", "classes"), "1 class"),
        ((3, "class", "classes"), "3 classes"),
        ((1024, "sample"), "1,024 samples"),
    ],
)
def test_one_is_singular_and_every_other_number_plural(arguments, words):
    assert plural(*arguments) == words


def test_a_strangers_words_are_shown_whole_or_cut_and_nothing_in_them_is_obeyed():
    assert shown("caf\u00e9") == "caf\u00e9"
    assert shown("a\x1b[2J\nb") == r"a\x1b[2J\nb"
    assert shown("x" * 200, 10) == "x" * 10 + "..."
