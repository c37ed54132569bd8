"""Captions of scenes: clean ones name every object; web-like ones leave objects out, or are another image's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from silc.data.sample_set.concepts import with_article

SINGLE_CAPTIONS = ("{}", "{}", "{}", "a drawing of {}")
SEVERAL_CAPTIONS = ("{}", "{}", "{}", "a drawing of {}", "a picture with {}")


def write_caption(rng: np.random.Generator, phrases: Sequence[str]) -> str:
    """'a dog', 'a drawing of a bee', 'grapes, a dog and an owl', ..."""
    if len(phrases) == 1:
        return str(rng.choice(SINGLE_CAPTIONS)).format(phrases[0])
    *first, last = (phrases[i] for i in rng.permutation(len(phrases)))
    return str(rng.choice(SEVERAL_CAPTIONS)).format(f"{', '.join(first)} and {last}")


def web_caption(rng: np.random.Generator, names: Sequence[str], left_out: float) -> str:
    """A caption in which each name is missing with probability `left_out`; one stays, whichever, if all would go."""
    kept = [name for name in names if rng.random() >= left_out] or [names[int(rng.integers(len(names)))]]
    return write_caption(rng, [with_article(name) for name in kept])
