"""What the runs measured: claims.md, claims.html with curves, which opens offline, and claims.csv with every metric."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from markdown_it import MarkdownIt

from silc.claims.metrics import CLAIMS, Mean, Measurement, gain, mean, select, slope, steeper, verdict
from silc.claims.plan import MEANING, SILC, VARIANTS
from silc.evaluate.report.charts import Chart, chart
from silc.evaluate.report.rendering import render, save

TEMPLATES = Path(__file__).parent / "templates"
BASELINES = [variant for variant in VARIANTS if variant != SILC]


@dataclass(frozen=True)
class Table:
    """Cells as text; the first of a row names it."""

    head: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Section:
    """A heading and its tables."""

    title: str
    tables: list[Table]


def write(measured: Sequence[Measurement], title: str, about: Sequence[str], out: Path, *, command: str) -> None:
    """claims.csv, claims.md and claims.html in the folder `out`.

    Args:
        measured: of all runs.
        title: of the pages.
        about: sentences on how they were made, plain text.
        out: exists.
        command: the last call, as one could type it.
    """
    with (out / "claims.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Measurement)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(one) for one in measured)
    save(out / "claims.md", markdown(measured, title, about, command))
    save(out / "claims.html", page(measured, title, about, command))


def markdown(measured: Sequence[Measurement], title: str, about: Sequence[str], command: str) -> str:
    """The tables: each metric by variant, what SILC gains, how each variant scales, what each variant cost."""
    return _introduction(title, about, command) + "\n" + _tables(measured)


def page(measured: Sequence[Measurement], title: str, about: Sequence[str], command: str) -> str:
    """The same as HTML, with curves between the introduction and the tables."""
    return render(
        "claims.html.j2",
        TEMPLATES,
        title=title,
        introduction=_html(_introduction(title, about, command)),
        charts=curves(measured),
        tables=_html(_tables(measured)),
    )


def curves(measured: Sequence[Measurement]) -> list[Chart]:
    """For each claim its metric, mean over seeds, against the pairs that SILC sees, by doublings; a line a variant."""
    sizes = sorted({one.pairs for one in measured})
    charts = []
    for claim, name in _claims(measured).items():
        lines = {
            variant: [
                (pairs, mean([one.value for one in found.values()]).value)
                for pairs in sizes
                if (found := select(measured, variant, claim, pairs))
            ]
            for variant in VARIANTS
        }
        charts.append(chart(name, lines, from_zero=True, unit="pairs", doublings=True))
    return [one for one in charts if one is not None]


def _introduction(title: str, about: Sequence[str], command: str) -> str:
    meaning = {variant: MEANING[variant] for variant in VARIANTS}
    return render("introduction.md.j2", TEMPLATES, title=title, about=about, command=command, meaning=meaning)


def _tables(measured: Sequence[Measurement]) -> str:
    return render("tables.md.j2", TEMPLATES, sections=list(_sections(measured)))


def _html(text: str) -> str:
    """Markdown as HTML. HTML inside the Markdown is text; a wide table scrolls."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.add_render_rule("table_open", lambda *_: '<div class="scroll"><table>')
    parser.add_render_rule("table_close", lambda *_: "</table></div>")
    return parser.render(text)


def _claims(measured: Sequence[Measurement]) -> dict[tuple[str, str], str]:
    """Those of CLAIMS that some run has a metric for: data may not serve every task."""
    known = {(one.task, one.metric) for one in measured}
    return {claim: name for claim, name in CLAIMS.items() if claim in known}


def _sections(measured: Sequence[Measurement]) -> Iterator[Section]:
    sizes = sorted({one.pairs for one in measured})
    for pairs in reversed(sizes):
        yield Section(f"After {pairs:,} pairs", [_values(measured, pairs), _gains(measured, pairs)])
    if len(sizes) > 1:
        yield Section("Scaling: what a doubling of the pairs adds", [_scaling(measured)])
    yield Section("What each run cost", [_costs(measured)])


def _values(measured: Sequence[Measurement], pairs: int) -> Table:
    rows = []
    for claim, name in _claims(measured).items():
        found = [select(measured, variant, claim, pairs) for variant in VARIANTS]
        chances = [one.chance for each in found for one in each.values()]
        chance = "" if not chances or chances[0] is None else f"{chances[0]:.4f}"
        cells = [_cell(mean([one.value for one in each.values()]) if each else None) for each in found]
        rows.append([name, *cells, chance])
    return Table(["metric", *VARIANTS, "chance"], rows)


def _gains(measured: Sequence[Measurement], pairs: int) -> Table:
    rows = []
    for claim, name in _claims(measured).items():
        differences = [gain(measured, baseline, claim, pairs) for baseline in BASELINES]
        rows.append([name, *(f"{_cell(each, sign=True)} ({verdict(each)})" for each in differences)])
    return Table(["SILC minus", *BASELINES], rows)


def _scaling(measured: Sequence[Measurement]) -> Table:
    rows = []
    for claim, name in _claims(measured).items():
        slopes = [list(slope(measured, variant, claim).values()) for variant in VARIANTS]
        cells = [_cell(mean(each) if each else None, sign=True) for each in slopes]
        more = steeper(measured, "clip", claim)
        rows.append([name, *cells, f"{_cell(more, sign=True)} ({verdict(more)})"])
    return Table(["metric", *VARIANTS, "SILC minus clip"], rows)


def _costs(measured: Sequence[Measurement]) -> Table:
    order = list(VARIANTS)
    runs = {(one.pairs, order.index(one.variant)): one for one in measured}
    rows = [
        [f"{one.pairs:,}", one.variant, f"{one.steps:,}", f"{one.seen:,}", f"{one.flops / 1e12:,.1f}"]
        for _, one in sorted(runs.items(), key=lambda item: item[0])
    ]
    return Table(["after pairs", "variant", "steps", "pairs seen", "TFLOP"], rows)


def _cell(value: Mean | None, *, sign: bool = False) -> str:
    if value is None:
        return "-"
    error = "" if value.error is None else f" ± {value.error:.3f}"
    return f"{value.value:{'+' if sign else ''}.3f}{error}"
