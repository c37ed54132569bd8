"""A number that a task measures."""

from __future__ import annotations

from dataclasses import dataclass

LOWER = frozenset({"loss"})  # metrics of which a lower value is better


@dataclass(frozen=True)
class Metric:
    """One measured number.

    Attributes:
        name: within its task, such as top1; with the suffix _std, the standard deviation of the metric before it.
        value: a fraction in [0, 1]; a loss in nats.
        chance: the value that random guesses get, of a loss the one that a model gets which tells no pair from another;
            None where that has no meaning (a standard deviation).
        error: standard error of the value from the choice of test images, by bootstrap over them; None: not known.
    """

    name: str
    value: float
    chance: float | None = None
    error: float | None = None


def lower_is_better(name: str) -> bool:
    """Of a metric by its name, such as top1, or by its name in the log: eval/TASK/MODEL/METRIC."""
    return name.rpartition("/")[2] in LOWER
