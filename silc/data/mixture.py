"""How many samples of each weighted source a block holds: in closed form, exact at any position."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

WHOLE = 1 << 40  # the integer weights' sum


class Quota(NamedTuple):
    """A block's samples of one source: those numbered [first, first + size), counted through its passes."""

    first: int
    size: int


class Mixture:
    """Quotas of weighted sources.

    After any number of samples, that of a source is the difference of two rounded cumulative shares. It lies within
    one sample of the source's own share, the numbers add up, and no state is needed to find them. All of it is done in
    Python's integers, so that nothing is lost at any position.

    Args:
        weights: of the sources, positive; only their ratios matter.
        block: samples of a block.

    Raises:
        ValueError: a weight that is not positive and finite; among three or more sources one of which a block holds
            less than one sample on average (the difference of two rounded numbers could then decrease).
    """

    def __init__(self, weights: Sequence[float], block: int) -> None:
        for number, weight in enumerate(weights):
            if not (math.isfinite(weight) and weight > 0):
                raise ValueError(
                    f"data.sources.{number}.weight={weight}: a weight is a positive number; remove the source to take "
                    "nothing from it"
                )
        self.block = block
        self.weights = integer_weights(weights)
        for number, weight in enumerate(self.weights):
            if weight * block < WHOLE and (len(weights) > 2 or weight == 0):
                least = f"data.shuffle_block to at least {-(-WHOLE // weight)}" if weight else "leave the source out"
                raise ValueError(
                    f"data.sources.{number}.weight={weights[number]} is less than one sample in a block of {block}; "
                    f"raise it, or {least}"
                )
        self._ends = [sum(self.weights[: number + 1]) for number in range(len(self.weights))]

    def taken(self, position: int) -> list[int]:
        """Samples of each source before a stream position, which must be the start of a block."""
        rounded = [(2 * end * position + WHOLE) // (2 * WHOLE) for end in self._ends]
        return [after - before for before, after in zip([0, *rounded], rounded, strict=False)]

    def quotas(self, number: int) -> list[Quota]:
        """What block `number` holds of each source; the sizes' sum is the block."""
        firsts, stops = self.taken(number * self.block), self.taken((number + 1) * self.block)
        return [Quota(first, stop - first) for first, stop in zip(firsts, stops, strict=True)]


def integer_weights(weights: Sequence[float]) -> list[int]:
    """Integers in proportion to the weights whose sum is exactly WHOLE (method of the largest remainder)."""
    total = sum(Fraction(weight) for weight in weights)
    exact = [Fraction(weight) * WHOLE / total for weight in weights]
    whole = [math.floor(share) for share in exact]
    by_remainder = sorted(range(len(weights)), key=lambda i: (whole[i] - exact[i], i))
    for number in by_remainder[: WHOLE - sum(whole)]:
        whole[number] += 1
    return whole
