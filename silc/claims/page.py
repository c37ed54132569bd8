"""What the runs measured: claims.md, claims.html with curves, which opens offline, their picture claims.svg, and
claims.csv with every metric.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from markdown_it import MarkdownIt

from silc.claims import curves
from silc.claims.eval_sets import MAIN
from silc.claims.metrics import MEANING, Measurement, columns, on
from silc.claims.plan import SILC, VARIANTS
from silc.claims.tables import sections
from silc.evaluate.report.rendering import render, save
from silc.files import write_text

TEMPLATES = Path(__file__).parent / "templates"


def write(measured: Sequence[Measurement], title: str, about: Sequence[str], out: Path, *, command: str) -> None:
    """claims.csv, claims.md, claims.html and, of two numbers of pairs or more, claims.svg in the folder `out`.

    Args:
        measured: of all runs.
        title: of the pages.
        about: sentences on how they were made, plain text.
        out: exists.
        command: the last call, as one could type it.
    """
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, [field.name for field in fields(Measurement)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(one) for one in measured)
    write_text(out / "claims.csv", table.getvalue())  # whole or not at all: other programs read it
    save(out / "claims.md", markdown(measured, title, about, command))
    save(out / "claims.html", page(measured, title, about, command))
    picture = curves.picture(on(measured, MAIN))
    if picture is not None:
        save(out / "claims.svg", render("claims_svg.html.j2", TEMPLATES, picture=picture, title=title))


def markdown(measured: Sequence[Measurement], title: str, about: Sequence[str], command: str) -> str:
    """The tables: noise, each metric by column, what SILC gains, how each column scales, what each run cost."""
    return _introduction(measured, title, about, command) + "\n" + _tables(measured)


def page(measured: Sequence[Measurement], title: str, about: Sequence[str], command: str) -> str:
    """The same as HTML, with curves between the introduction and the tables."""
    own = on(measured, MAIN)
    have = columns(own)
    return render(
        "claims.html.j2",
        TEMPLATES,
        title=title,
        introduction=_html(_introduction(measured, title, about, command)),
        panels=curves.panels(own),
        legend=[(name, color) for color, name in enumerate(curves.SHOWN) if name in have],
        tables=_html(_tables(measured)),
    )


def how_made(
    origin: str,
    chosen: Mapping[str, Sequence[str]],
    words: Sequence[str] = (),
    left_out: Sequence[str] = (),
    without: Sequence[str] = (),
    shown: Container[str] = VARIANTS,
) -> list[str]:
    """Sentences on what the figures mean and how the runs were made.

    Args:
        origin: see :func:`silc.claims.origin.sentence`.
        chosen: words of single variants.
        words: of all runs.
        left_out, without: folders of which nothing, or not all, is on the page, see :class:`silc.claims.gaps.Gaps`.
        shown: the variants on the page.
    """
    changed = [word for word in words if word.startswith(("optim.", "optim="))]
    preset = f"the preset, which is {SILC}'s" + (f", but for {' '.join(changed)}" if changed else "")
    others = [variant for variant in VARIANTS if variant in shown and not chosen.get(variant)]
    theirs = [f"{variant} {' '.join(words)}" for variant, words in chosen.items() if words and variant in shown]
    if not theirs:
        rates = f"All variants have the optimiser, the learning rate and the schedule of {preset}."
    else:
        rates = f"Chosen for each variant: {'; '.join(theirs)}."
        rates += f" As in {preset}: {', '.join(others)}." if others else ""
    partly = "; ".join(without)
    return [
        origin,
        "± is half of the 95 % t interval over seeds, n of them: of a column over its own seeds, of a difference over "
        "the differences of the seeds that both columns have. The interval is of other seeds on the same training data "
        "and the same test images: that other images would give other figures is not in it. Better and worse: the "
        "interval leaves out zero, which takes three seeds.",
        f"{rates} All share the data; a variant that sees more pairs than there are repeats them.",
        *([f"Left out of this page: {'; '.join(left_out)}."] if left_out else []),
        *([f"{partly[0].upper()}{partly[1:]}."] if partly else []),
    ]


def _introduction(measured: Sequence[Measurement], title: str, about: Sequence[str], command: str) -> str:
    meaning = {
        column: MEANING.get(column, f"the averaged image tower (teacher of the run {column.removesuffix('_ema')})")
        for column in columns(measured)
    }
    return render("introduction.md.j2", TEMPLATES, title=title, about=about, command=command, meaning=meaning)


def _tables(measured: Sequence[Measurement]) -> str:
    return render("tables.md.j2", TEMPLATES, sections=list(sections(measured)))


def _html(text: str) -> str:
    """Markdown as HTML. HTML inside the Markdown is text; a wide table scrolls."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.add_render_rule("table_open", lambda *_: '<div class="scroll"><table>')
    parser.add_render_rule("table_close", lambda *_: "</table></div>")
    return parser.render(text)
