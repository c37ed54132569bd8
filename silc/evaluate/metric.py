"""A number that a task measures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One measured number.

    Attributes:
        name: within its task, such as top1; with the suffix _std, the standard deviation of the metric before it.
        value: a fraction in [0, 1].
        chance: the value that random guesses get; None where that has no meaning (a standard deviation).
    """

    name: str
    value: float
    chance: float | None = None
