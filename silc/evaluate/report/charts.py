"""Line charts as SVG that needs nothing else: no script, no font, no style sheet."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 62, 8, 10, 22  # on the left as much as -1.23e-05 takes
COLOURS = ("#2a6fdb", "#d9480f", "#2b8a3e", "#8a3ffc", "#a37500", "#0b7285")

Points = Sequence[tuple[float, float]]


def chart(
    title: str, lines: Mapping[str, Points], *, from_zero: bool = False, unit: str = "step", doublings: bool = False
) -> str:
    """A figure element with one line for each name; points are (step, value) in rising order of steps.

    from_zero: the axis begins at 0 (shares). unit: what steps are, where it is another thing.
    doublings: as far apart as the steps are doubled. Points that are
    not finite are left out; so is a line without points.
    """
    kept = {name: [p for p in points if math.isfinite(p[1])] for name, points in lines.items()}
    kept = {name: points for name, points in kept.items() if points}
    if not kept:
        return ""
    values = [value for points in kept.values() for _, value in points]
    steps = [step for points in kept.values() for step, _ in points]
    low, high = (0.0 if from_zero else min(values)), max(values)
    if high <= low:
        high = low + (abs(low) or 1.0)
    first, last = min(steps), max(steps)

    def x(step: float) -> float:
        if last <= first:
            share = 0.5
        else:
            share = math.log(step / first, last / first) if doublings else (step - first) / (last - first)
        return LEFT + (WIDTH - LEFT - RIGHT) * share

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low)

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">',
        *(_grid(y(value), number(value)) for value in (low, (low + high) / 2, high)),
        f'<text x="{LEFT}" y="{HEIGHT - 6}">{number(first)}</text>',
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{html.escape(unit)} {number(last)}</text>',
    ]
    for colour, points in zip(_colours(len(kept)), kept.values(), strict=True):
        path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        if len(points) == 1:
            parts.append(f'<circle cx="{x(points[0][0]):.1f}" cy="{y(points[0][1]):.1f}" r="3" fill="{colour}"/>')
    legend = " ".join(
        f'<span class="key"><i style="background:{colour}"></i>{html.escape(name)} {number(points[-1][1])}</span>'
        for colour, (name, points) in zip(_colours(len(kept)), kept.items(), strict=True)
    )
    return f"<figure><figcaption>{html.escape(title)}</figcaption>{''.join(parts)}</svg>{legend}</figure>"


def number(value: float) -> str:
    """Short."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _grid(height: float, label: str) -> str:
    line = f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height:.1f}" y2="{height:.1f}" class="grid"/>'
    return line + f'<text x="{LEFT - 4}" y="{height + 4:.1f}" text-anchor="end">{label}</text>'


def _colours(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]
