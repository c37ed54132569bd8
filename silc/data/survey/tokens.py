"""How many tokens a caption has before it is truncated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from silc.data.tokenizer import build_tokenizer

LONGEST = 1024  # tokens that are counted; a longer caption has at least so many


def counter(name: str, context_length: int) -> Callable[[str], int]:
    """Counts the tokens of a caption, those for its start and end included.

    Args:
        name: `data.tokenizer`.
        context_length: of the model; at least as many are counted.

    Raises ValueError for a tokenizer that cannot be loaded.
    """
    longest = max(LONGEST, context_length + 1)
    tokenizer: Any = build_tokenizer(name, longest)
    inner = getattr(tokenizer, "tokenizer", None)
    if inner is None:  # open_clip's own
        return lambda text: min(longest, len(tokenizer.encode(text)) + 2)

    def count(text: str) -> int:
        cleaned = tokenizer.clean_fn(text[: 64 * longest])
        return min(longest, len(inner(cleaned, truncation=True, max_length=longest)["input_ids"]))

    return count
