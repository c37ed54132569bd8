"""What the runs found, as a page of markdown, a page with curves that opens offline, and a CSV of every figure."""

from __future__ import annotations

import csv
import html
import re
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from silc.claims.figures import CLAIMS, Figure, Mean, gain, mean, of, slope, steeper, verdict
from silc.claims.plan import ARMS, MEANING, SILC
from silc.evaluate.report.charts import chart
from silc.evaluate.report.page import STYLE

BASELINES = [arm for arm in ARMS if arm != SILC]


def _measured(figures: Sequence[Figure]) -> dict[tuple[str, str], str]:
    """Those of CLAIMS that some run has a figure for: data may not serve every task."""
    there = {(figure.task, figure.figure) for figure in figures}
    return {claim: name for claim, name in CLAIMS.items() if claim in there}


def write(figures: Sequence[Figure], title: str, about: Sequence[str], out: Path) -> None:
    """claims.csv, claims.md and claims.html in the folder `out`.

    Args:
        figures: of all runs.
        title: of the pages.
        about: sentences on how they were made.
        out: exists.
    """
    with (out / "claims.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Figure)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(figure) for figure in figures)
    text = markdown(figures, title, about)
    (out / "claims.md").write_text(text, encoding="utf-8")
    (out / "claims.html").write_text(page(text, title, curves(figures)), encoding="utf-8")


def markdown(figures: Sequence[Figure], title: str, about: Sequence[str]) -> str:
    """The tables: each figure by arm, what SILC gains, how each arm scales, what each arm cost."""
    sizes = sorted({figure.pairs for figure in figures})
    lines = [f"# {title}", "", *(f"{sentence}  " for sentence in about), ""]
    lines += [f"- **{arm}**: {MEANING[arm]}" for arm in ARMS] + [""]
    for pairs in reversed(sizes):
        lines += [f"## After {pairs:,} pairs", "", *_values(figures, pairs), "", *_gains(figures, pairs), ""]
    if len(sizes) > 1:
        lines += ["## Scaling: what a doubling of the pairs adds", "", *_scaling(figures), ""]
    return "\n".join([*lines, "## What each run cost", "", *_costs(figures), ""])


def _values(figures: Sequence[Figure], pairs: int) -> list[str]:
    rows = []
    for claim, name in _measured(figures).items():
        found = {arm: of(figures, arm, claim, pairs) for arm in ARMS}
        chances = [figure.chance for each in found.values() for figure in each.values()]
        guess = "" if not chances or chances[0] is None else f"{chances[0]:.4f}"
        cells = [_cell(mean([figure.value for figure in each.values()]) if each else None) for each in found.values()]
        rows.append([name, *cells, guess])
    return _table(["figure", *ARMS, "chance"], rows)


def _gains(figures: Sequence[Figure], pairs: int) -> list[str]:
    rows = []
    for claim, name in _measured(figures).items():
        differences = [gain(figures, baseline, claim, pairs) for baseline in BASELINES]
        rows.append([name, *(f"{_cell(each, sign=True)} ({verdict(each)})" for each in differences)])
    return _table(["SILC less", *BASELINES], rows)


def _scaling(figures: Sequence[Figure]) -> list[str]:
    rows = []
    for claim, name in _measured(figures).items():
        slopes = [list(slope(figures, arm, claim).values()) for arm in ARMS]
        cells = [_cell(mean(each) if each else None, sign=True) for each in slopes]
        more = steeper(figures, "clip", claim)
        rows.append([name, *cells, f"{_cell(more, sign=True)} ({verdict(more)})"])
    return _table(["figure", *ARMS, "SILC less clip"], rows)


def _costs(figures: Sequence[Figure]) -> list[str]:
    runs = {(f.pairs, f.arm): f for f in figures}
    rows = [
        [f"{pairs:,}", arm, str(figure.steps), f"{figure.seen:,}", f"{figure.flops / 1e12:,.1f}"]
        for (pairs, arm), figure in sorted(runs.items(), key=lambda item: (item[0][0], list(ARMS).index(item[0][1])))
    ]
    return _table(["after", "arm", "steps", "pairs seen", "TFLOP"], rows)


def _cell(value: Mean | None, *, sign: bool = False) -> str:
    if value is None:
        return "-"
    error = "" if value.error is None else f" ± {value.error:.3f}"
    return f"{value.value:{'+' if sign else ''}.3f}{error}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def curves(figures: Sequence[Figure]) -> str:
    """A chart a claim: the figure, mean over seeds, against the pairs SILC sees, by doublings; a line an arm."""
    sizes = sorted({figure.pairs for figure in figures})
    charts = []
    for claim, name in _measured(figures).items():
        lines = {
            arm: [
                (pairs, mean([figure.value for figure in each.values()]).value)
                for pairs in sizes
                if (each := of(figures, arm, claim, pairs))
            ]
            for arm in ARMS
        }
        charts.append(chart(name, lines, from_zero=True, unit="pairs", doublings=True))
    return f'<div class="curves">{"".join(charts)}</div>'


def page(text: str, title: str, drawn: str) -> str:
    """The markdown of this module as HTML, the curves before its first section."""
    body, tables = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("| "):
            tables.append([_inline(cell) for cell in line.strip("| ").split(" | ")])
            continue
        if tables:
            head, _, *rows = tables
            cells = ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
            top = "".join(f"<th>{cell}</th>" for cell in head)
            inside = "".join(f"<tr>{row}</tr>" for row in cells)
            body.append(
                f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{inside}</tbody></table></div>'
            )
            tables = []
        if line.startswith("## "):
            body += [drawn, f"<h2>{_inline(line[3:])}</h2>"]
            drawn = ""
        elif line.startswith("# "):
            body.append(f"<h1>{_inline(line[2:])}</h1>")
        elif line.strip():
            body.append(f"<p>{_inline(line)}</p>")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def _inline(text: str) -> str:
    bold = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", html.escape(text.removeprefix("- ").strip()))
    return re.sub(r"`(.+?)`", r"<code>\1</code>", bold)
