"""report.html: what a run learnt, on one page that holds everything itself and opens anywhere, a phone included."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from silc.evaluate.metric import lower_is_better
from silc.evaluate.report.about import About
from silc.evaluate.report.charts import Chart, Key, chart
from silc.evaluate.report.examples import Examples
from silc.evaluate.report.rendering import render, save, task_title
from silc.evaluate.runner import Result

NAME = "report.html"
CURVES = {
    "loss": ("loss", "loss_contrastive", "loss_distill"),
    "teacher": ("teacher_entropy", "teacher_kl_uniform", "center_norm"),
    "gradient norm": ("grad_norm",),
    "learning rate": ("lr",),
    "logit scale": ("logit_scale",),
    "samples per second": ("samples_per_second",),
}
ROW = 4  # examples in a row; the last row is filled up with empty cells


@dataclass(frozen=True)
class MetricTable:
    """The metrics of a task: a row a metric (name, a value for each model, chance), and why a model has none."""

    task: str
    data: str
    models: list[str]
    rows: list[tuple[str, list[str], str]]
    errors: list[str]


def write_report(
    path: Path,
    title: str,
    log: Iterable[dict[str, Any]],
    results: Sequence[Result],
    shown: Examples,
    about: About,
    unreadable: int = 0,
) -> None:
    """Write the page.

    Args:
        path: of the file.
        title: what was evaluated.
        log: rows of metrics.jsonl; none for a model whose training left no log here.
        results: of the tasks.
        shown: examples.
        about: where all this comes from.
        unreadable: lines of metrics.jsonl that are no row; the page says how many were left out.
    """
    charts = _charts(list(log), results)
    page = render(
        "report.html.j2",
        title=title,
        about=about,
        tables=_tables(results),
        curves=[one for one in charts if one.paths],
        once=_logged_once(charts),
        shown=shown,
        results=results,
        row=ROW,
        unreadable=unreadable,
    )
    save(path, page)


def read_log(folder: Path) -> tuple[list[dict[str, Any]], int]:
    """Rows of a run folder's metrics.jsonl, and how many of its lines are no row; none where there is no such file.

    A row is an object with a whole number `step`; of its other values those that are numbers are kept. A last line
    cut short is left out and not counted: a run that is being written may end in one.
    """
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return [], 0
    rows = [_row(line) for line in path.read_bytes().split(b"\n")[:-1]]
    readable = [row for row in rows if row is not None]
    return readable, len(rows) - len(readable)


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):  # not UTF-8, no JSON, or nested too deeply
        return None
    if not isinstance(row, dict) or type(row.get("step")) is not int or abs(row["step"]) >= 2**63:
        return None
    return {name: value for name, value in row.items() if name == "step" or _is_number(value)}


def _is_number(value: object) -> bool:
    """Also infinite, or no number in the sense of IEEE 754; but no boolean, and no integer beyond a float."""
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**1023)


def _tables(results: Sequence[Result]) -> list[MetricTable]:
    """In the order of the tasks."""
    tables = []
    for task in dict.fromkeys(result.task for result in results):
        mine = [result for result in results if result.task == task]
        models = [result.model for result in mine]
        values = {(metric.name, result.model): metric for result in mine for metric in result.metrics}
        rows = []
        for name in dict.fromkeys(name for name, _ in values if not name.endswith("_std")):
            chance = next((values[name, model].chance for model in models if (name, model) in values), None)
            cells = [_value(values, name, model) for model in models]
            rows.append((name, cells, "" if chance is None else f"{chance:.4f}"))
        errors = [f"{result.model}: {result.error}" for result in mine if result.error]
        tables.append(MetricTable(task_title(task), mine[0].data, models, rows, errors))
    return tables


def _value(values: dict[tuple[str, str], Any], name: str, model: str) -> str:
    if (name, model) not in values:
        return ""
    metric, spread = values[name, model], values.get((f"{name}_std", model))
    error = "" if metric.error is None else f" ± {metric.error:.3f}"
    return f"{metric.value:.3f}{error}" + (f", draws ± {spread.value:.3f}" if spread is not None else "")


def _charts(log: Sequence[dict[str, Any]], results: Sequence[Result]) -> list[Chart]:
    """Of the losses and of the metrics measured on the way. What the tables show is not said again."""

    def line(name: str) -> list[tuple[float, float]]:
        return [(row["step"], row[name]) for row in log if _is_number(row.get(name))]

    tabulated = {f"eval/{r.task}/{r.model}/{metric.name}": metric.value for r in results for metric in r.metrics}

    def known(name: str, points: list[tuple[float, float]]) -> bool:
        return len(points) == 1 and name in tabulated and math.isclose(points[0][1], tabulated[name], rel_tol=1e-5)

    charts = [chart(title, {name: line(name) for name in names}) for title, names in CURVES.items()]
    metrics: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}
    for name in dict.fromkeys(name for row in log for name in row if name.startswith("eval/")):
        points = line(name)
        parts = name.split("/", 3)
        if len(parts) == 4 and not name.endswith("_std") and not known(name, points):
            _, task, model, metric = parts
            metrics.setdefault((f"{task_title(task)}: {metric}", metric), {})[model] = points
    charts += [chart(title, lines, from_zero=not lower_is_better(name)) for (title, name), lines in metrics.items()]
    return [one for one in charts if one is not None]


def _logged_once(charts: Sequence[Chart]) -> list[tuple[str, float, list[Key]]]:
    """(title, step, values) where there is no curve to draw."""
    found = []
    for one in charts:
        if not one.paths:
            steps = dict.fromkeys(key.step for key in one.keys)
            found += [(one.title, step, [key for key in one.keys if key.step == step]) for step in steps]
    return found
