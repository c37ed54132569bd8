"""report.html: what a run learnt, on one page that holds everything itself and opens anywhere, a phone included."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from silc.evaluate.report.charts import chart, number
from silc.evaluate.report.examples import Confusions, Exhibits, Found, Guess, Panels
from silc.evaluate.runner import Result

NAME = "report.html"
QUALITY = 88  # of JPEG
CURVES = {
    "loss": ("loss", "loss_contrastive", "loss_distill"),
    "teacher": ("teacher_entropy", "teacher_kl_uniform", "center_norm"),
    "gradient norm": ("grad_norm",),
    "learning rate": ("lr",),
    "logit scale": ("logit_scale",),
    "samples a second": ("samples_per_second",),
}
STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#5b6470;--line:#d7dce2;--page:#fff;--good:#1a7f37;--bad:#b42318}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ed;--soft:#9aa4b1;--line:#38404a;--page:#14171b;--good:#57ab5a;
--bad:#e5736b}}
*{box-sizing:border-box}body{margin:0 auto;max-width:1080px;padding:12px;font:15px/1.45 system-ui,sans-serif;
color:var(--ink);background:var(--page);overflow-wrap:anywhere}h1{font-size:1.35rem;margin:.4em 0}
h2{font-size:1.1rem;margin:1.6em 0 .4em;border-bottom:1px solid var(--line)}p{margin:.4em 0;color:var(--soft)}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.88rem;margin:.3em 0 1em}
th,td{text-align:right;padding:3px 5px;border-bottom:1px solid var(--line)}th{color:var(--soft);font-weight:600}
.scroll{overflow-x:auto}.scroll th,.scroll td{overflow-wrap:normal}
th:first-child,td:first-child{text-align:left}.grid{stroke:var(--line)}svg{width:100%;height:auto;display:block}
svg text{font:10px system-ui,sans-serif;fill:var(--soft)}figure{margin:0}figcaption{font-weight:600}
.curves{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,300px),1fr));gap:16px}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,146px),1fr));gap:12px;font-size:.82rem}
.rows{display:grid;gap:12px;font-size:.82rem}.row{display:flex;flex-wrap:wrap;gap:6px}
.row div{flex:1 1 64px;max-width:128px}
img{width:100%;height:auto;display:block;border-radius:3px}.map img{image-rendering:pixelated}
.key{display:inline-block;margin-right:10px;font-size:.8rem;color:var(--soft)}
.key i{display:inline-block;width:10px;height:10px;margin-right:4px;border-radius:2px}
.good{color:var(--good)}.bad{color:var(--bad)}.hit img{outline:3px solid var(--good)}
"""


def write_report(path: Path, title: str, log: Iterable[dict[str, Any]], results: Sequence[Result], shown: Exhibits):
    """Write the page.

    Args:
        path: of the file.
        title: what was evaluated.
        log: rows of metrics.jsonl; none for a model whose training left no log here.
        results: of the tasks.
        shown: pictures.
    """
    sections = [
        ("Figures", _figures(results)),
        ("Curves", _curves(list(log))),
        (f"Zero-shot classification: pictures and the {shown.model}'s closest classes", _cards(shown.classified)),
        (f"Classes that the {shown.model} misses most, and what it takes them for", _worst(shown.worst)),
        (f"Retrieval: pictures and the {shown.model}'s closest captions", _cards(shown.captioned)),
        (f"Retrieval: captions and the {shown.model}'s closest pictures", _found(shown.found)),
        ("Zero-shot segmentation beside the truth", _panels(shown.segmented, "")),
        ("Patch features, first three principal components", _panels(shown.features, "map")),
        ("Left out", "".join(f'<p class="bad">{html.escape(line)}</p>' for line in shown.left_out)),
        ("How it was measured", _notes(results)),
    ]
    body = "".join(f"<section><h2>{html.escape(name)}</h2>{text}</section>" for name, text in sections if text)
    # The policy lets nothing be fetched, whatever a caption or a class name holds.
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body><h1>{html.escape(title)}</h1>"
        f"{body}</body></html>\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Rows of a run folder's metrics.jsonl; none where there is no such file. A last line cut short is left out."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _figures(results: Sequence[Result]) -> str:
    """A table a task: a row a figure, a column a model, chance."""
    parts = []
    for task in dict.fromkeys(result.task for result in results):
        mine = [result for result in results if result.task == task]
        models = [result.model for result in mine]
        values = {(metric.name, result.model): metric for result in mine for metric in result.metrics}
        names = [n for n in dict.fromkeys(name for name, _ in values) if not n.endswith("_std")]
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in ("figure", *models, "chance"))
        rows = []
        for name in names:
            cells = [_value(values, name, model) for model in models]
            guess = next((values[name, m].chance for m in models if (name, m) in values), None)
            cells.append("" if guess is None else f"{guess:.4f}")
            rows.append(f"<tr><td>{html.escape(name)}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
        errors = "".join(f'<p class="bad">{html.escape(f"{r.model}: {r.error}")}</p>' for r in mine if r.error)
        table = _table(head, "".join(rows)) if rows else ""
        parts.append(
            f"<p><b>{html.escape(task.replace('_', ' '))}</b> on {html.escape(mine[0].data)}</p>{table}{errors}"
        )
    return "".join(parts)


def _table(head: str, rows: str) -> str:
    """On a narrow screen it scrolls sideways: figures and names that break in the middle cannot be read."""
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _value(values: dict[tuple[str, str], Any], name: str, model: str) -> str:
    if (name, model) not in values:
        return ""
    spread = values.get((f"{name}_std", model))
    return f"{values[name, model].value:.3f}" + (f" &plusmn; {spread.value:.3f}" if spread is not None else "")


def _curves(log: Sequence[dict[str, Any]]) -> str:
    def line(name: str) -> list[tuple[float, float]]:
        return [(row["step"], row[name]) for row in log if isinstance(row.get(name), int | float)]

    charts = [chart(title, {name: line(name) for name in names}) for title, names in CURVES.items()]
    measured = dict.fromkeys(name for row in log for name in row if name.startswith("eval/"))
    figures: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name in measured:
        if not name.endswith("_std"):
            _, task, model, figure = name.split("/", 3)
            figures.setdefault(f"{task.replace('_', ' ')}: {figure}", {})[model] = line(name)
    charts += [chart(title, lines, from_zero=True) for title, lines in figures.items()]
    drawn = "".join(charts)
    return f'<div class="curves">{drawn}</div>' if drawn else ""


def _cards(guesses: Sequence[Guess]) -> str:
    cards = []
    for guess in guesses:
        lines = "".join(
            f'<div class="{"good" if words in guess.truth else "bad"}">{value:.2f} {html.escape(words)}</div>'
            for words, value in guess.guesses
        )
        cards.append(f"<div>{_image(guess.picture)}<b>{html.escape(guess.truth[0])}</b>{lines}</div>")
    return f'<div class="cards">{"".join(cards)}</div>' if cards else ""


def _worst(worst: Sequence[Confusions]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(c.name)}</td><td>{c.accuracy:.2f} of {c.pictures}</td>"
        f"<td>{html.escape(', '.join(f'{name} ({count})' for name, count in c.taken_for))}</td></tr>"
        for c in worst
    )
    return _table("<th>class</th><th>right</th><th>taken for</th>", rows) if rows else ""


def _found(found: Sequence[Found]) -> str:
    rows = []
    for one in found:
        pictures = "".join(f'<div class="{"hit" if own else ""}">{_image(p)}</div>' for p, own in one.pictures)
        rows.append(f'<div><b>{html.escape(one.caption)}</b><div class="row">{pictures}</div></div>')
    return f'<div class="rows">{"".join(rows)}</div>' if rows else ""


def _panels(panels: Sequence[Panels], kind: str) -> str:
    rows = []
    for panel in panels:
        pictures = "".join(f"<div>{_image(p)}{html.escape(name)}</div>" for name, p in panel.pictures)
        words = [(name if true else f"{name} (guess)", colour) for name, colour, true in panel.legend]
        legend = "".join(
            f'<span class="key"><i style="background:{colour}"></i>{html.escape(name)}</span>' for name, colour in words
        )
        rows.append(f'<div><div class="row {kind}">{pictures}</div>{legend}</div>')
    return f'<div class="rows">{"".join(rows)}</div>' if rows else ""


def _notes(results: Sequence[Result]) -> str:
    return "".join(
        f"<p><b>{html.escape(f'{r.task}, {r.model}')}</b> ({number(r.seconds)} s): {html.escape('; '.join(r.notes))}"
        f"{f'; {len(r.skipped)} unreadable pictures left out' if r.skipped else ''}</p>"
        for r in results
    )


def _image(pixels: np.ndarray) -> str:
    """An img element that holds uint8 [h, w, 3]."""
    encoded = io.BytesIO()
    kind = "PNG" if max(pixels.shape[:2]) < 64 else "JPEG"  # small maps must not smear
    Image.fromarray(np.ascontiguousarray(pixels)).save(encoded, kind, quality=QUALITY)
    data = base64.b64encode(encoded.getvalue()).decode()
    return f'<img alt="" src="data:image/{kind.lower()};base64,{data}">'
