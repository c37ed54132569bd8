"""Words of messages that depend on a number."""

from __future__ import annotations

import pytest

from silc.text import plural


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
