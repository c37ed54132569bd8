"""Several runs' measurements in one table: a row for each metric, and each run's difference to the first one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from silc import config_io
from silc.config import Config
from silc.data.sample_set.concepts import RESERVED
from silc.evaluate.datasets import SPLIT_TITLES
from silc.evaluate.metric import lower_is_better
from silc.evaluate.results import Kept

# Options that change no measured number.
_FREE = frozenset(
    {"every", "during", "after", "models", "timeout_minutes", "batch", "contact_sheet", "report"}  # of eval
)
# Of `data`, what the test images depend on, or the images that heads are fitted to.
SAMPLE = ("sample_concepts", "sample_scenes", "sample_test_scenes", "sample_objects", "sample_unseen")

LISTED = 8  # names in a note

Key = tuple[str, str, str]  # task, model, metric
Score = Mapping[str, Any]  # value, chance, error


@dataclass(frozen=True)
class Measured:
    """What is known of a run.

    Attributes:
        name: heads its column.
        kept: its evaluation.json.
        data: keys of the section `data` that it was measured with; None: not known.
        pairs: that it has seen; None: not known.
        left_out: artists of the sample set that it was not trained on; None: not known.
    """

    name: str
    kept: Kept
    data: Mapping[str, Any] | None = None
    pairs: int | None = None
    left_out: frozenset[str] | None = None

    def scores(self, tasks: Sequence[str]) -> dict[Key, Score]:
        """Metrics of `tasks`, without deviations over draws."""
        return {
            (result["task"], result["model"], metric): found
            for result in self.kept.results
            if result["task"] in tasks
            for metric, found in result["metrics"].items()
            if not metric.endswith("_std")
        }


class Difference(NamedTuple):
    """To the first run. error: standard error over test images, the two runs taken as independent; None: not known."""

    value: float
    error: float | None


def difference(one: Score, first: Score) -> Difference:
    """Of two scores of a metric: value and error, a number or None, in each."""
    errors = [score["error"] for score in (one, first) if score.get("error") is not None]
    return Difference(one["value"] - first["value"], math.hypot(*errors) if len(errors) == 2 else None)


def check_alike(runs: Sequence[Measured], tasks: Sequence[str]) -> None:
    """Raises ValueError where the runs' `tasks` were measured on other data, or with other options; it says which."""
    first = runs[0]
    for other in runs[1:]:
        differences = list(_unlike(first, other, tasks))
        if differences:
            raise ValueError(
                f"{first.name} and {other.name} were not measured alike: {'; '.join(differences)}; "
                f"{_way_out(first, other, differences)}"
            )


def _way_out(first: Measured, other: Measured, differences: Sequence[str]) -> str:
    """How the two can be measured alike. Each may be tested on artists that its own training left out alone."""
    of_artists = any(one.startswith("data.sample_unseen ") for one in differences)
    (ours, may_ours), (theirs, may_theirs) = _artists(first), _artists(other)
    if not of_artists or (ours <= may_theirs and theirs <= may_ours):
        return "measure one of them again with the other's options: silc evaluate RUN section.key=value"
    both = ",".join(sorted(may_ours & may_theirs))
    return (
        "they were trained without different artists: measure both with the same options on what neither was trained "
        f"on, silc evaluate RUN data.sample_unseen=[{both}]"
    )


def _artists(run: Measured) -> tuple[frozenset[str], frozenset[str]]:
    """Of the sample set: those that a run was tested on, and those that it may be tested on, as far as is known."""
    data = config_io.to_dict(Config())["data"] | dict(run.data or {})
    unseen = data["sample_unseen"]
    tested = frozenset(map(str, unseen) if isinstance(unseen, list) else ())
    return tested, tested | {RESERVED} if run.left_out is None else run.left_out


def _unlike(first: Measured, other: Measured, tasks: Sequence[str]) -> Iterator[str]:
    tree = config_io.to_dict(Config())
    options = tree["eval"] | first.kept.options, tree["eval"] | other.kept.options  # of earlier versions some lack
    for key in options[0] | options[1]:
        if key not in _FREE and options[0].get(key) != options[1].get(key):
            yield f"eval.{key} is {options[0].get(key)!s:.80} and {options[1].get(key)!s:.80}"
    measured = [{result["task"]: str(result.get("data")) for result in run.kept.results} for run in (first, other)]
    for task in tasks:
        names = [found.get(task) for found in measured]
        if None not in names and names[0] != names[1]:
            yield f"{task} was measured on {names[0]:.80} and {names[1]:.80}"
    if all(run.data is not None and on_sample_set(run.kept, tasks) for run in (first, other)):
        for key in SAMPLE:
            values = [(tree["data"] | dict(run.data or {}))[key] for run in (first, other)]
            if values[0] != values[1]:
                yield f"data.{key} is {values[0]!s:.80} and {values[1]!s:.80}"


def on_sample_set(kept: Kept, tasks: Sequence[str]) -> bool:
    """Whether one of `tasks` was measured on the embedded sample set."""
    return any(result["task"] in tasks and result.get("data") in SPLIT_TITLES.values() for result in kept.results)


def table(runs: Sequence[Measured], tasks: Sequence[str], brief: Sequence[tuple[str, str]] | None = None) -> str:
    """One line a metric of every run: chance, each run's value, and the differences to the first one; then notes.

    Args:
        runs: two or more, measured alike.
        tasks: those to show.
        brief: (task, metric) of the rows, where not all are shown.

    Raises ValueError where the runs have no metric in common.
    """
    scores = [run.scores(tasks) for run in runs]
    wanted = set(brief) if brief is not None else None
    keys = [key for key in scores[0] if wanted is None or (key[0], key[2]) in wanted]
    common = [key for key in keys if all(key in found for found in scores)]
    if not common:
        raise ValueError(
            f"{' and '.join(run.name for run in runs)} have no metric in common{_lacking(runs, tasks, scores)}; "
            "measure them alike first: silc evaluate RUN"
        )
    head = ["task", "model", "metric", "chance", *(run.name for run in runs)]
    rows = [[*head, *(f"{run.name} - {runs[0].name}" for run in runs[1:])]]
    for key in common:
        of = [found[key] for found in scores]
        chance = "" if of[0]["chance"] is None else f"{of[0]['chance']:.4f}"
        task, model, metric = key
        named = f"{metric} (lower is better)" if lower_is_better(metric) else metric
        gains = [in_words(difference(one, of[0])) for one in of[1:]]
        rows.append([task, model, named, chance, *(f"{one['value']:.3f}" for one in of), *gains])
    if any(run.pairs is not None for run in runs):
        seen = ["" if run.pairs is None else f"{run.pairs:,}" for run in runs]
        rows.insert(1, ["pairs seen", "", "", "", *seen, *[""] * len(runs[1:])])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    shown = scores if wanted is None else [{k: v for k, v in one.items() if (k[0], k[2]) in wanted} for one in scores]
    return "\n".join([*lines, *_notes(runs, tasks, scores), *_partly(shown), *_unknown(runs, tasks)])


def in_words(found: Difference) -> str:
    """As +0.012 +- 0.009."""
    return f"{found.value:+.3f}" + ("" if found.error is None else f" +- {found.error:.3f}")


def _notes(runs: Sequence[Measured], tasks: Sequence[str], scores: Sequence[Mapping[Key, Score]]) -> list[str]:
    """What the figures mean, and what is not in the table."""
    notes = []
    if any(found.get("error") is not None for one in scores for found in one.values()):
        notes.append(
            "+-: standard error over the choice of test images, the runs taken as independent (they share the images, "
            "so that it is mostly less); the seed of the training is not in it"
        )
    for run in runs:
        for result in run.kept.results:
            if result["task"] in tasks and result.get("error") is not None:
                notes.append(f"{run.name}: {result['task']}, {result['model']}, has no metrics: {result['error']:.200}")
    return notes


def _partly(scores: Sequence[Mapping[Key, Score]]) -> list[str]:
    """Names the tasks, the models and, of the others, the metrics that only some of the runs have."""
    notes = []
    rest = {key for one in scores for key in one}
    parts: list[tuple[str, Callable[[Key], str]]] = [
        ("task", lambda key: key[0]),
        ("model", lambda key: key[1]),
        ("metric", ", ".join),
    ]
    for what, part in parts:
        of: list[set[str]] = [{part(key) for key in one} for one in scores]
        partly = sorted({part(key) for key in rest} - of[0].intersection(*of))
        if partly:
            more = f" and {len(partly) - LISTED} more" if len(partly) > LISTED else ""
            notes.append(f"not measured on every run, and left out: {what} {'; '.join(partly[:LISTED])}{more}")
        rest = {key for key in rest if part(key) not in partly}
    return notes


def _lacking(runs: Sequence[Measured], tasks: Sequence[str], scores: Sequence[Mapping[Key, Score]]) -> str:
    """Which of the tasks some run has no metric of, for the end of a message: of those that any has, or else all."""
    have = [{task for task, _, _ in found} for found in scores]
    by_names: dict[str, list[str]] = {}
    for task in [task for task in tasks if any(task in some for some in have)] or tasks:
        names = [run.name for run, some in zip(runs, have, strict=True) if task not in some]
        by_names.setdefault(" and ".join(names), []).append(task)
    by_names.pop("", None)  # the models, or the metrics of the task, are what differs
    said = [f"{', '.join(of)} {'was' if len(of) == 1 else 'were'} not measured on {on}" for on, of in by_names.items()]
    return f": {'; '.join(said)}" if said else ""


def _unknown(runs: Sequence[Measured], tasks: Sequence[str]) -> list[str]:
    """Names the runs on the sample set of which it is not known which sample set that was."""
    names = [run.name for run in runs if run.data is None and on_sample_set(run.kept, tasks)]
    said = (
        "not known which sample set it is (an evaluation.json of an earlier version, without a config.yaml beside it)"
    )
    return [f"not checked that the test images are the same: of {', '.join(names)} it is {said}"] if names else []
