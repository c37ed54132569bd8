"""Curves of a metric over the number of pairs with error bars over seeds: places for SVG, which templates draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from silc.claims.metrics import BASELINES, CLAIMS, WHERE, Claim, Measurement, known
from silc.claims.plan import SILC
from silc.claims.statistics import Mean, column_mean
from silc.evaluate.report.charts import number

SHOWN = (*BASELINES, SILC)  # as many as the style sheet has colors
WIDTH, HEIGHT = 340, 210
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 26, 24
APART = 2.5  # pixels between the error bars of neighbouring curves, so that all are seen
ACROSS = 3  # panels in a row of the picture
LEGEND, CAPTION = 26, 250  # pixels: its height, and the width of what is said beside it


@dataclass(frozen=True)
class Curve:
    """One column.

    Attributes:
        color: number of a class of the style sheet.
        points: in SVG's notation.
        bars: (x, y of the lower end, y of the upper end): one standard error to either side.
    """

    color: int
    points: str
    bars: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Panel:
    """One metric.

    Attributes:
        title: text.
        curves: of the columns that have it.
        grid: heights of the horizontal lines, with their labels.
        ticks: places of the numbers of pairs, with their labels.
    """

    title: str
    curves: tuple[Curve, ...]
    grid: tuple[tuple[str, str], ...]
    ticks: tuple[tuple[str, str], ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT


@dataclass(frozen=True)
class Picture:
    """Panels in rows, and the legend: (name, color, x)."""

    panels: tuple[tuple[int, int, Panel], ...]
    legend: tuple[tuple[str, int, int], ...]
    width: int
    height: int


def panels(measured: Sequence[Measurement]) -> list[Panel]:
    """One for each metric of the tables that was measured; none where there is one number of pairs only.

    measured: of one test set.
    """
    sizes = sorted({one.pairs for one in measured})
    if len(sizes) < 2:
        return []
    claims = known(measured, CLAIMS | WHERE)
    return [_panel(measured, claim, title, sizes) for claim, title in claims.items()]


def picture(measured: Sequence[Measurement]) -> Picture | None:
    """All panels in one; None where there is none."""
    found = panels(measured)
    if not found:
        return None
    placed = tuple(
        (WIDTH * (place % ACROSS), LEGEND + HEIGHT * (place // ACROSS), panel) for place, panel in enumerate(found)
    )
    have = {one.column for one in measured}
    names = [(name, color) for color, name in enumerate(SHOWN) if name in have]
    columns = min(ACROSS, len(found))
    legend = tuple((name, color, LEFT + place * 120) for place, (name, color) in enumerate(names))
    width = max(WIDTH * columns, LEFT + 120 * len(names) + CAPTION)
    return Picture(placed, legend, width, LEGEND + HEIGHT * math.ceil(len(found) / ACROSS))


def _panel(measured: Sequence[Measurement], claim: Claim, title: str, sizes: Sequence[int]) -> Panel:
    means = {
        column: [(pairs, found) for pairs in sizes if (found := column_mean(measured, column, claim, pairs))]
        for column in SHOWN
    }
    low, high = _span([one for points in means.values() for _, one in points])
    first, last = math.log2(sizes[0]), math.log2(sizes[-1])

    def x(pairs: float) -> float:
        return LEFT + 8 + (WIDTH - LEFT - RIGHT - 16) * (math.log2(pairs) - first) / (last - first)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low)

    def curve(color: int, points: Sequence[tuple[int, Mean]]) -> Curve:
        shift = APART * (color - (len(SHOWN) - 1) / 2)
        bars = tuple(
            (f"{x(pairs) + shift:.1f}", f"{y(one.value - one.error):.1f}", f"{y(one.value + one.error):.1f}")
            for pairs, one in points
            if one.error
        )
        return Curve(color, " ".join(f"{x(pairs) + shift:.1f},{y(one.value):.1f}" for pairs, one in points), bars)

    levels = (low, (low + high) / 2, high)
    return Panel(
        title,
        tuple(curve(color, means[column]) for color, column in enumerate(SHOWN) if means[column]),
        tuple((f"{y(value):.1f}", f"{value:.3f}") for value in levels),
        tuple((f"{x(pairs):.1f}", number(pairs)) for pairs in sizes),
    )


def _span(means: Sequence[Mean]) -> tuple[float, float]:
    """Lowest and highest value of the axis: all error bars are inside."""
    low = min((one.value - (one.error or 0.0) for one in means), default=0.0)
    high = max((one.value + (one.error or 0.0) for one in means), default=1.0)
    return (low, high) if high > low else (low, low + (abs(low) or 1.0))
