"""Runs tasks on models, and puts their results into a table and a file."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from silc import config_io
from silc.config import Config
from silc.data.splits import DataSet
from silc.distributed import World
from silc.evaluate.datasets import EvalData
from silc.evaluate.kept import Kept
from silc.evaluate.metric import Metric
from silc.evaluate.sharding import VALUES, Job, TaskFailed, TimedOut
from silc.evaluate.tasks import TASKS
from silc.evaluate.tasks.task import Task
from silc.evaluate.towers import Towers
from silc.files import write_text
from silc.text import plural


@dataclass(frozen=True)
class Result:
    """What a task measured on a model.

    Attributes:
        task, model: names.
        data: name of the data set.
        metrics: empty where the task failed.
        notes: the protocol in words.
        seconds: time that the task took.
        skipped: (key, reason) of the images that could not be read.
        error: why there are no metrics; None where the task succeeded.
        broken: whether it ended by what is neither a lack of time nor a mistake in the data.
        details: what the report shows beside the metrics.
    """

    task: str
    model: str
    data: str
    metrics: tuple[Metric, ...]
    notes: tuple[str, ...]
    seconds: float
    skipped: tuple[tuple[str, str], ...]
    error: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
    broken: bool = False


def evaluate(
    config: Config, models: Sequence[Towers], data: EvalData, tasks: Sequence[str], world: World, *, strict: bool
) -> list[Result]:
    """Run every task that the data and the models allow, on every model (collective). Changes no state but theirs.

    strict: whether a mistake in the data ends the evaluation. Otherwise it becomes the result's error, as does
        whatever else goes wrong in a task, on whichever rank: time, memory, a file system.

    Raises ValueError if strict.
    """
    names, kept = list(dict.fromkeys(tasks)), Kept()
    found: dict[str, list[Result]] = {name: [] for name in names}
    with unchanged():
        for model in models:
            for name in names:
                task = TASKS[name]
                used = data.of(task)
                if used is not None and not task.missing(used) and task.unfit(model) is None:
                    found[name].append(_one(config, task, model, used, world, strict, kept))
            kept.forget(VALUES)  # the features of one model are in memory at a time
    return [result for name in names for result in found[name]]


def _one(config: Config, task: Task, model: Towers, data: DataSet, world: World, strict: bool, kept: Kept) -> Result:
    started = time.perf_counter()
    job = Job(config, world, f"{task.name}, {model.name}", kept=kept)
    metrics, wrong = _measured(task, model, data, job)
    if wrong is not None:
        kept.forget()  # not every rank may have all of it
    if strict and isinstance(wrong, ValueError):
        raise ValueError(f"{task.name}: {wrong}") from wrong
    return Result(
        task.name,
        model.name,
        data.name,
        tuple(metrics),
        (*job.notes, *data.notes),
        time.perf_counter() - started,
        tuple(sorted(job.skipped)),
        None if wrong is None else str(wrong),
        job.details,
        isinstance(wrong, TaskFailed),
    )


def _measured(task: Task, model: Towers, data: DataSet, job: Job) -> tuple[list[Metric], Exception | None]:
    """The metrics, or what the task failed with on some rank, the same on all (collective)."""
    metrics: list[Metric] = []
    wrong: Exception | None = None
    try:
        metrics = _defined(list(task.run(model, data, job)), job)
    except Exception as error:
        wrong = error
    try:
        job.settle(wrong)
    except (TimedOut, TaskFailed, ValueError) as error:
        return [], error
    return metrics, None


def _defined(metrics: Sequence[Metric], job: Job) -> list[Metric]:
    """The metrics that have a value; a mean over no class has none, and JSON has no NaN. The others become a note."""
    nothing = [metric.name for metric in metrics if not math.isfinite(metric.value)]
    if nothing:
        job.notes.append(f"left out, as no data contributes to them: {', '.join(nothing)}")
    return [metric for metric in metrics if math.isfinite(metric.value)]


@contextmanager
def unchanged() -> Iterator[None]:
    """Gradients off inside; afterwards the random states of torch, NumPy and Python are what they were before."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global state is what others use
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def table(results: Sequence[Result], data: EvalData, tasks: Sequence[str], models: Sequence[Towers] = ()) -> str:
    """One line a metric, with its standard error and chance in columns beside; then the tasks left out, and the
    protocols. A value with "+-" is a mean over draws of training images, with the deviation of the draws.

    models: those that were measured, for what a task lacks in them.
    """
    rows = [("task", "model", "metric", "value", "error", "chance", "data")]
    for result in results:
        spread = {m.name.removesuffix("_std"): m.value for m in result.metrics if m.name.endswith("_std")}
        for metric in result.metrics:
            if not metric.name.endswith("_std"):
                value = f"{metric.value:.3f}" + (f" +- {spread[metric.name]:.3f}" if metric.name in spread else "")
                error = "" if metric.error is None else f"{metric.error:.3f}"
                guess = "" if metric.chance is None else f"{metric.chance:.4f}"
                rows.append((result.task, result.model, metric.name, value, error, guess, result.data))
        if result.error is not None:
            rows.append((result.task, result.model, "none", "", "", "", result.error))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[-1]]) for row in rows]
    lines += left_out(data, tasks, models)
    for result in results:
        where = f"{result.task}, {result.model} ({result.seconds:.0f} s)"
        lines.append(f"{where}: " + "; ".join(result.notes) if result.notes else where)
        if result.skipped:
            key, why = result.skipped[0]
            lines.append(
                f"{where}: left out {plural(len(result.skipped), 'image')} that could not be read, such as {key}: {why}"
            )
    return "\n".join(lines)


def left_out(data: EvalData, tasks: Sequence[str], models: Sequence[Towers] = ()) -> list[str]:
    """A sentence for each task that the data or the models do not allow."""

    def why(task: Task) -> str | None:
        return data.why_not(task) or next(filter(None, map(task.unfit, models)), None)

    reasons = {name: why(TASKS[name]) for name in dict.fromkeys(tasks)}
    return [f"{name} is left out: {reason}" for name, reason in reasons.items() if reason is not None]


def scalars(results: Sequence[Result]) -> dict[str, float]:
    """Values by name, eval/TASK/MODEL/METRIC, for the log, and how many tasks failed, if any."""
    found = {f"eval/{r.task}/{r.model}/{metric.name}": metric.value for r in results for metric in r.metrics}
    failed = sum(result.error is not None for result in results)
    return found | ({"eval_failed": failed} if failed else {})


def write_json(
    results: Sequence[Result], step: int | None, config: Config, path: Path, tasks: Sequence[str] | None = None
) -> None:
    """Write the results, and the options they were measured with, to a file: whole or not at all.

    tasks: that were asked for, those that the data do not allow too; None: not noted.
    """
    rows = [
        {
            "task": result.task,
            "model": result.model,
            "data": result.data,
            "metrics": {
                metric.name: {"value": metric.value, "chance": metric.chance, "error": metric.error}
                for metric in result.metrics
            },
            "notes": list(result.notes),
            "seconds": round(result.seconds, 2),
            "skipped": len(result.skipped),
            "error": result.error,
        }
        for result in results
    ]
    tree = config_io.to_dict(config)
    sample = {key: value for key, value in tree["data"].items() if key.startswith("sample_")}
    kept = {"step": step, "results": rows, "eval": tree["eval"], "data": sample}
    kept |= {} if tasks is None else {"tasks": list(tasks)}
    write_text(path, json.dumps(kept, indent=1, allow_nan=False) + "\n")
