"""Means over seeds with their errors, what SILC gains over a baseline seed by seed, slopes, and the noise.

Everything here takes the measurements of one test set.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from silc.claims.metrics import Claim, Measurement, columns, select
from silc.claims.plan import SILC
from silc.text import plural

# Student's t, two-sided, 95 %, of 1, 2, ... degrees of freedom. Beyond the last one its value, which is a little wide.
_T95 = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
    *(2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423),
)
DECIDE = 3  # seeds from which on there are verdicts: two agree by chance, and then seem to have no error
DECISIVE = 2.0  # standard errors, of the page's summary


class Mean(NamedTuple):
    """Over seeds. error: standard error of the mean; None of a single seed."""

    value: float
    error: float | None
    seeds: int

    @property
    def half(self) -> float | None:
        """Half the width of the 95 % t interval; None of a single seed."""
        return None if self.error is None else t95(self.seeds - 1) * self.error


class Noise(NamedTuple):
    """How far one run's metric moves by chance.

    Attributes:
        seeds: standard deviation between seeds, pooled over the columns; None where no column has two seeds.
        images: standard error of one run by bootstrap over the test images, root mean square; None if not known.
        difference: standard deviation between seeds of SILC minus CLIP; None without two seeds of both.
    """

    seeds: float | None
    images: float | None
    difference: float | None

    @property
    def share(self) -> float | None:
        """Of the variance between seeds, what the choice of test images explains at most: all seeds have the same."""
        if self.images is None or not self.seeds:
            return None
        return min(1.0, (self.images / self.seeds) ** 2)


def t95(freedom: int) -> float:
    """The quantile of Student's t that 97.5 % lie below, for 1 degree of freedom or more."""
    return _T95[min(freedom, len(_T95)) - 1]


def mean(values: Sequence[float]) -> Mean:
    """Mean and its standard error."""
    if len(values) == 1:
        return Mean(values[0], None, 1)
    return Mean(statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values)), len(values))


def column_mean(measured: Sequence[Measurement], column: str, claim: Claim, pairs: int) -> Mean | None:
    """A column's mean over seeds; None where it has none."""
    values = [one.value for one in select(measured, column, claim, pairs).values()]
    return mean(values) if values else None


def differences(measured: Sequence[Measurement], ours: str, theirs: str, claim: Claim, pairs: int) -> list[float]:
    """One column minus another, of each seed that both have."""
    first, second = (select(measured, column, claim, pairs) for column in (ours, theirs))
    return [first[seed].value - second[seed].value for seed in first if seed in second]


def gain(measured: Sequence[Measurement], baseline: str, claim: Claim, pairs: int, ours: str = SILC) -> Mean | None:
    """SILC minus the baseline, seed by seed; None where no seed has both."""
    found = differences(measured, ours, baseline, claim, pairs)
    return mean(found) if found else None


def sizes(measured: Sequence[Measurement]) -> list[int]:
    """The numbers of pairs that any run was measured after, ascending."""
    return sorted({one.pairs for one in measured})


def slope(measured: Sequence[Measurement], column: str, claim: Claim) -> dict[int, float]:
    """By seed: what a doubling of the pairs adds, by least squares over all sizes; none where there is one size.

    A seed that lacks a size is left out: a curve that flattens is steeper over its first part, so that slopes over
    different parts of it must not be averaged or compared.
    """
    pairs = sizes(measured)
    if len(pairs) < 2:
        return {}
    by_size = [select(measured, column, claim, count) for count in pairs]
    whole = [seed for seed in by_size[0] if all(seed in found for found in by_size)]
    x = [math.log2(count) for count in pairs]
    return {seed: statistics.linear_regression(x, [one[seed].value for one in by_size]).slope for seed in whole}


def steeper(measured: Sequence[Measurement], baseline: str, claim: Claim) -> Mean | None:
    """What a doubling of the pairs adds to SILC more than to the baseline, of seeds with every size in both."""
    ours, theirs = (slope(measured, column, claim) for column in (SILC, baseline))
    found = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    return mean(found) if found else None


def noise(measured: Sequence[Measurement], claim: Claim, pairs: int) -> Noise:
    """The noise of a metric after so many pairs."""
    groups = [list(select(measured, column, claim, pairs).values()) for column in columns(measured)]
    several = [[one.value for one in group] for group in groups if len(group) > 1]
    errors = [one.error for one in itertools.chain(*groups) if one.error is not None]
    moved = differences(measured, SILC, "clip", claim, pairs)
    freedom = sum(len(values) - 1 for values in several)
    squares = sum((len(values) - 1) * statistics.variance(values) for values in several)
    return Noise(
        math.sqrt(squares / freedom) if freedom else None,
        math.sqrt(statistics.fmean(error**2 for error in errors)) if errors else None,
        statistics.stdev(moved) if len(moved) > 1 else None,
    )


def verdict(difference: Mean | None) -> str:
    """The difference in words, by its 95 % t interval. Fewer than three seeds decide nothing."""
    if difference is None:
        return "not measured"
    if difference.seeds < DECIDE:
        return plural(difference.seeds, "seed")
    if not abs(difference.value) > (difference.half or 0.0):  # NaN is neither
        return "undecided"
    return "better" if difference.value > 0 else "worse"


def beyond(difference: Mean) -> int:
    """1 or -1 where the difference lies more than DECISIVE standard errors above or below zero, else 0."""
    if not abs(difference.value) > DECISIVE * (difference.error or 0.0):  # NaN is neither
        return 0
    return 1 if difference.value > 0 else -1


def by_chance(freedom: int) -> float:
    """How often Student's t with so many degrees of freedom, 1 or more, lies more than DECISIVE from zero.

    By the finite sums of Abramowitz and Stegun, 26.7.3 and 26.7.4.
    """
    angle = math.atan(DECISIVE / math.sqrt(freedom))
    square = math.cos(angle) ** 2
    odd = freedom % 2
    term, total = (math.cos(angle) if odd else 1.0), 0.0
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= square * k / (k + 1)
    inside = 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
    return 1 - inside
