"""evaluation.json as others read it: whole and of the shape that :func:`silc.evaluate.runner.write_json` gives it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from silc.config.fields import as_set
from silc.files import read_json

NAME = "evaluation.json"
MAX_BYTES = 16 << 20  # a few kilobytes are usual
LARGEST = 1e9  # of a metric: beyond any measure, and far from where squares overflow
NAMES = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,99}")  # of tasks and metrics
MODELS = ("student", "teacher")


class Kept(NamedTuple):
    """Step, options and results, the sample set's keys of `data`, and the tasks that were asked for, of which the data
    may not allow all; a result has task, model, error, and metrics with value, chance and error, each a number or null.
    Files of earlier versions have no `data`, no `tasks` (None here), and no error of a metric.
    """

    step: int | None
    options: dict[str, Any]
    results: list[dict[str, Any]]
    data: Mapping[str, Any] = MappingProxyType({})
    tasks: tuple[str, ...] | None = None


def read_results(folder: Path) -> Kept | None:
    """What was measured last, by the file in a run folder; None where there is no such file, or a damaged one."""
    try:
        found = read_json(folder / NAME, MAX_BYTES)
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict):
        return None
    step, options, results = (found.get(name) for name in ("step", "eval", "results"))
    if not (isinstance(options, dict) and isinstance(results, list) and (step is None or type(step) is int)):
        return None
    if not all(map(_is_result, results)):
        return None
    if len({(one["task"], one["model"]) for one in results}) < len(results):  # which of two would count?
        return None
    data, tasks = found.get("data"), found.get("tasks")
    asked = tuple(map(str, tasks)) if isinstance(tasks, list) else None
    return Kept(step, options, results, _as_today(data) if isinstance(data, dict) else {}, asked)


def _as_today(data: dict[str, Any]) -> dict[str, Any]:
    """Keys of `data` as a configuration has them: earlier versions kept the artists in the order they were given in."""
    unseen = data.get("sample_unseen")
    if isinstance(unseen, list) and all(isinstance(name, str) for name in unseen):
        return data | {"sample_unseen": as_set(unseen)}
    return data


def _is_result(found: object) -> bool:
    return (
        isinstance(found, dict)
        and _is_name(found.get("task"))
        and found.get("model") in MODELS
        and isinstance(found.get("error", 0), str | None)
        and isinstance(metrics := found.get("metrics"), dict)
        and not (found.get("error") is not None and metrics)  # a task that failed has none
        and all(map(_is_name, metrics))
        and all(map(_is_metric, metrics.values()))
    )


def _is_name(found: object) -> bool:
    return isinstance(found, str) and NAMES.fullmatch(found) is not None


def _is_metric(found: object) -> bool:
    return (
        isinstance(found, dict)
        and _is_number(found.get("value"))
        and "chance" in found
        and all(found.get(name) is None or _is_number(found[name]) for name in ("chance", "error"))
        and (found.get("error") or 0) >= 0
    )


def _is_number(value: object) -> bool:
    """Of those that a metric can be: what is not finite is never written."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST  # NaN is not
