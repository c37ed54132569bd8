"""How many tokens a caption has before it is truncated."""

from __future__ import annotations

from collections.abc import Callable

from silc.data.tokenizer import build_tokenizer
from silc.data.tokens import Clean

LONGEST = 1024  # tokens that are counted; a longer caption has at least so many


def counter(name: str, context_length: int, clean: Clean = "auto") -> Callable[[str], int]:
    """Counts the tokens of a caption, those for its start and end included.

    Args:
        name: `data.tokenizer`.
        context_length: of the model; at least as many are counted.
        clean: `data.tokenizer_clean`.

    Raises ValueError for a tokenizer that cannot be loaded.
    """
    return build_tokenizer(name, max(LONGEST, context_length + 1), clean).count
