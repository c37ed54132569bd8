"""Random numbers by address: a pure function of (seed, purpose, counter), never of what was drawn before.

Philox is a counter-based generator (Salmon et al., SC 2011): word i of a stream is computed from i, so that the numbers
of any sample are available without drawing those of the samples before it, and the numbers of consecutive samples are
one contiguous draw. Raw words are used, since NumPy keeps those of its bit generators fixed across versions, but not
the numbers that Generator makes of them.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

WORDS_PER_COUNT = 4  # Philox 4x64 makes four words of 64 bits for each value of its counter


class Purpose(IntEnum):
    """Uses of random numbers, each with a stream of its own, so that no two share numbers."""

    CHUNKS = 1
    BLOCK = 2
    CROPS = 3
    SUBSTITUTE = 4
    TAILS = 5
    ROTATION = 6
    CAPTION = 7


def random_words(seed: int, purpose: Purpose, counter: int, count: int) -> np.ndarray:
    """`count` random words, uint64 [count], beginning at `counter` (four words for each value of it)."""
    return np.random.Philox(key=np.array([seed, purpose], dtype=np.uint64), counter=counter).random_raw(count)


def random_permutation(seed: int, purpose: Purpose, counter: int, count: int) -> np.ndarray:
    """A permutation of range(count), int64 [count]. `counter` counts permutations: no two share numbers."""
    return np.argsort(random_words(seed, purpose, counter << 64, count), kind="stable")


def uniform_rows(seed: int, purpose: Purpose, first: int, rows: int, width: int) -> np.ndarray:
    """Numbers in [0, 1), float64 [rows, width]; row i depends on the address first + i alone."""
    counts = -(-width // WORDS_PER_COUNT)
    words = random_words(seed, purpose, first * counts, rows * counts * WORDS_PER_COUNT)
    return ((words >> np.uint64(11)) * 2.0**-53).reshape(rows, -1)[:, :width]
