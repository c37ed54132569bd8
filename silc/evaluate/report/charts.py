"""Line charts as SVG that needs nothing else: no script, no font. Here are the places; templates draw them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 62, 8, 10, 22  # on the left as much as -1.23e-05 takes
COLORS = 6  # classes c0 to c5 of the style sheet
MOST = 600  # points of a line: a chart is 270 px wide
EDGE = 1e300  # beyond it a value is drawn at it: the span of an axis must be finite

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Key:
    """A line of the legend: a name and the last value, with the step where there is no curve to read it from.

    color: number of a class of the style sheet; None: no curve is drawn, there is one value only.
    """

    name: str
    value: float
    step: float
    color: int | None


@dataclass(frozen=True)
class Chart:
    """What the template `chart` draws.

    Attributes:
        title, unit: text; unit: what the horizontal axis counts.
        paths: points of each curve in SVG's notation, with the number of its color.
        grid: heights of the horizontal lines, with their labels.
        ends: labels of the first and the last step.
        keys: the legend.
    """

    title: str
    unit: str
    paths: tuple[tuple[str, int], ...]
    grid: tuple[tuple[str, str], ...]
    ends: tuple[str, str]
    keys: tuple[Key, ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT


def chart(
    title: str, lines: Mapping[str, Points], *, from_zero: bool = False, unit: str = "step", doublings: bool = False
) -> Chart | None:
    """A chart with a curve for each name; points are (step, value) in rising order of steps.

    from_zero: the axis begins at 0 (shares). unit: what steps are. doublings: a logarithmic axis of steps.
    Points that are not finite are left out; a line of one point is a number in the legend, not a curve. None where no
    line has a point.
    """
    finite = {name: [point for point in points if math.isfinite(point[1])] for name, points in lines.items()}
    finite = {name: points for name, points in finite.items() if points}
    if not finite:
        return None
    colors = {name: number % COLORS for number, name in enumerate(finite)}
    curves = {name: _thinned(points) for name, points in finite.items() if points[0][0] < points[-1][0]}
    keys = tuple(
        Key(name, points[-1][1], points[-1][0], colors[name] if name in curves else None)
        for name, points in finite.items()
    )
    if not curves:
        return Chart(title, unit, (), (), ("", ""), keys)

    values = [_inside(value) for points in curves.values() for _, value in points]
    steps = [step for points in curves.values() for step, _ in points]
    low, high = (min(0.0, *values) if from_zero else min(values)), max(values)
    if high <= low:
        high = low + (abs(low) or 1.0)
    levels = (low, (low + high) / 2, high)
    first, last = min(steps), max(steps)

    def x(step: float) -> float:
        share = math.log(step / first, last / first) if doublings else (step - first) / (last - first)
        return LEFT + (WIDTH - LEFT - RIGHT) * share

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * ((_inside(value) - low) / (high - low))

    return Chart(
        title,
        unit,
        tuple(
            (" ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points), colors[name])
            for name, points in curves.items()
        ),
        tuple(zip((f"{y(value):.1f}" for value in levels), _labels(levels), strict=True)),
        (number(first), place(last, unit)),
        keys,
    )


def place(step: float, unit: str) -> str:
    """A point of the horizontal axis in words: step 40, or 8,000 pairs."""
    return f"step {number(step)}" if unit == "step" else f"{number(step)} {unit}"


def number(value: float, digits: int = 3) -> str:
    """With three digits, or all digits of a large one, or with a power of ten."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.{digits}g}"


def _inside(value: float) -> float:
    return max(-EDGE, min(EDGE, value))


def _labels(levels: Sequence[float]) -> list[str]:
    """With as many digits, up to five, as it takes to tell the levels apart."""
    labels = [[number(level, digits) for level in levels] for digits in (3, 4, 5)]
    return next((row for row in labels if len(set(row)) == len(row)), labels[0])


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most MOST points that keep every peak: of equal stretches the lowest and the highest, and both ends."""
    if len(points) <= MOST:
        return points
    size = math.ceil(len(points) / (MOST // 2 - 1))
    kept = {0, len(points) - 1}
    for start in range(0, len(points), size):
        stretch = range(start, min(start + size, len(points)))
        kept |= {min(stretch, key=lambda i: points[i][1]), max(stretch, key=lambda i: points[i][1])}
    return [points[i] for i in sorted(kept)]
