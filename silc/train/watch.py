"""Monitors that warn early, with numbers: a spike of a loss or of the gradient norm, a teacher that collapses, a logit
scale that stays at its limit, samples a second that fell.

Each looks at the numbers of a log interval, costs nothing in between, and says a line when its condition begins, and
again only after it was good for a while. An interval is compared with those before it, which a run that goes on reads
from metrics.jsonl.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from silc.config import Config

LOSSES = ("loss_contrastive", "loss_distill")
FEWEST = 15  # intervals that are needed to compare with
# Of a normal distribution: its deviation over the median of absolute deviations, and over what nine tenths of them stay
# below. The larger is taken: of few intervals the first is often far too small, and the second sees long tails.
OVER_HALF, OVER_MOST = 1.4826, 0.608
# Smallest deviations that are assumed: a loss that hardly moves would make a spike of every ripple.
RELATIVE, ABSOLUTE, OF_LOGARITHM = 0.02, 0.01, 0.1
LONGEST = 4 << 20  # bytes of metrics.jsonl that are read, from its end


class Trouble(NamedTuple):
    """Something that goes wrong in an interval. what: with numbers; way_out: what to do about it."""

    what: str
    way_out: str


@dataclass
class _Condition:
    """How often in a row it held or did not, and whether it was said."""

    bad: int = 0
    good: int = 0
    said: bool = False


class Watch:
    """Looks at each interval of a run.

    Attributes:
        active: conditions that hold in the last interval.
        good_until: the last logged step at which no loss had a spike; at first, `step`.
        lasting: what is wrong, in the interval in which a spike of a loss has become as long as `watch.lasting`.
    """

    def __init__(self, config: Config, step: int = 0) -> None:
        self._config = config
        self._before: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=config.watch.window))
        self._conditions: dict[str, _Condition] = defaultdict(_Condition)
        self.active = 0
        self.good_until = step
        self.lasting: str | None = None

    def remember(self, rows: Iterable[dict[str, Any]]) -> None:
        """Take up the intervals before a run goes on, without a word.

        Not how fast they were: other machines may be at work now.
        """
        for row in rows:
            if "resumed" in row:  # with other settings: the losses before are no measure
                self._before.clear()
            self.look(row["step"], {name: value for name, value in row.items() if name != "samples_per_second"})

    def look(self, step: int, values: dict[str, Any]) -> list[str]:
        """Lines for what begins to go wrong in the interval that ends with `step`; values: as they are logged."""
        known = {name: float(value) for name, value in values.items() if _finite(value)}
        if not self._config.watch.enabled or "loss" not in known:
            return []
        lines, self.active, self.lasting = [], 0, None
        for name, needed, trouble in self._troubles(step, known):
            condition = self._conditions[name]
            if self._begins(condition, needed, trouble is not None) and trouble is not None:
                lines.append(f"warning: {trouble.what}: {trouble.way_out}")
            if trouble is not None and name in LOSSES and condition.bad == self._config.watch.lasting:
                self.lasting = trouble.what
        if not any(self._conditions[name].bad for name in LOSSES):
            self.good_until = step
        for name in (*LOSSES, "grad_norm", "samples_per_second"):
            # A spike is no measure; what lasts is a new level, and becomes one.
            if name in known and not 0 < self._conditions[name].bad <= self._config.watch.lasting:
                self._before[name].append(known[name])
        return lines

    def _begins(self, condition: _Condition, needed: int, bad: bool) -> bool:
        """Count an interval; whether the condition is to be said now. needed: intervals in a row that make it one."""
        if not bad:
            condition.bad, condition.good = 0, condition.good + 1
            condition.said = condition.said and condition.good < self._config.watch.lasting
            return False
        condition.bad, condition.good = condition.bad + 1, 0
        if condition.bad < needed:
            return False
        self.active += 1
        fresh, condition.said = not condition.said, True
        return fresh

    def _troubles(self, step: int, values: dict[str, float]) -> Iterator[tuple[str, int, Trouble | None]]:
        """Each condition that can be judged: its name, the intervals in a row that make it one, what is wrong now."""
        lasting, at = self._config.watch.lasting, f"at step {step}"
        for name in LOSSES:
            if name in values:
                yield name, 1, self._loss(at, name, values[name])
        if "grad_norm" in values:
            yield "grad_norm", 1, self._gradient(at, values["grad_norm"])
        config = self._config
        if "teacher_entropy" in values and step >= config.distill_start_step + config.watch_grace:
            yield "teacher_entropy", lasting, self._entropy(at, values["teacher_entropy"])
        if "logit_scale" in values:
            yield "logit_scale", config.watch.window, self._scale(at, values["logit_scale"])
        if "samples_per_second" in values:
            yield "slow", lasting, self._slow(at, values["samples_per_second"], values.get("waiting_for_data", 0.0))

    def _loss(self, at: str, name: str, value: float) -> Trouble | None:
        before = self._before[name]
        if len(before) < FEWEST:
            return None
        median = statistics.median(before)
        above = (value - median) / max(_deviation(before, median), RELATIVE * abs(median), ABSOLUTE)
        if above <= self._config.watch.deviations:
            return None
        return Trouble(
            f"{name} {value:.4g} {at}, {_median(before, median)} ({above:.1f} deviations)",
            "if it lasts, lower optim.lr or optim.clip, or look at the data of these steps; watch.rewinds=1 goes back "
            "and leaves them out",
        )

    def _gradient(self, at: str, value: float) -> Trouble | None:
        before = [math.log(one) for one in self._before["grad_norm"] if one > 0]
        if len(before) < FEWEST or value <= 0:
            return None
        median = statistics.median(before)
        above = (math.log(value) - median) / max(_deviation(before, median), OF_LOGARITHM)
        times = value / math.exp(median)
        if above <= self._config.watch.deviations or times <= self._config.watch.grad_factor:
            return None
        clip = self._config.optim.clip
        return Trouble(
            f"gradient norm {value:.4g} {at}, {_median(before, math.exp(median))} ({times:.0f} times that)",
            f"optim.clip={clip:g} {'limits it' if clip else 'does not limit it'}; if it comes again, lower optim.lr or "
            "look at the data of these steps",
        )

    def _entropy(self, at: str, value: float) -> Trouble | None:
        most, near = math.log(self._config.model.head.prototypes), self._config.watch.entropy
        if near * most < value < (1 - near) * most:
            return None
        if value <= near * most:
            end, way = "near 0: it answers with one prototype", "raise objective.teacher_temp"
        else:
            end, way = f"near log K = {most:.4g}: it answers everything alike", "lower objective.teacher_temp"
        return Trouble(
            f"teacher entropy {value:.4g} {at}, {end}",
            f"{way}, lower optim.lr or objective.center_momentum, or raise objective.ema_momentum",
        )

    def _scale(self, at: str, value: float) -> Trouble | None:
        limit, window = self._config.objective.max_scale, self._config.watch.window
        if value < 0.999 * limit:
            return None
        return Trouble(
            f"logit scale {value:.4g} {at}, for {window} intervals at its limit objective.max_scale={limit:g}",
            "usual late in a long run; early, lower optim.scale_lr or optim.lr, or look for pairs that repeat",
        )

    def _slow(self, at: str, value: float, waiting: float) -> Trouble | None:
        before = self._before["samples_per_second"]
        if len(before) < FEWEST:
            return None
        median = statistics.median(before)
        if value >= self._config.watch.slow * median:
            return None
        return Trouble(
            f"{value:.4g} samples a second {at}, {_median(before, median)}, data wait {waiting:.0%}",
            "more data.workers or a faster store help"
            if waiting > 0.5
            else "look for other jobs on these machines, and for devices that are too hot",
        )


def recent(path: Path, rows: int) -> list[dict[str, Any]]:
    """The last rows of a metrics.jsonl, at most so many, oldest first; lines that are no row are passed over."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LONGEST))
        lines = file.read(LONGEST).split(b"\n")
    found = [row for line in lines if (row := _row(line)) is not None]
    return found[-rows:]


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and type(row.get("step")) is int else None


def _finite(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and abs(value) < 1e300


def _deviation(values: Iterable[float], median: float) -> float:
    """Robust standard deviation."""
    away = sorted(abs(value - median) for value in values)
    return max(OVER_HALF * statistics.median(away), OVER_MOST * away[math.ceil(0.9 * len(away)) - 1])


def _median(before: Sequence[float] | deque[float], median: float) -> str:
    return f"the median of the last {len(before)} intervals is {median:.4g}"
