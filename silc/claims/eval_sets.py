"""Further test sets on which every run is measured: `--also NAME section.key=value ...`.

A run's evaluation on one is in RUN/also/NAME, that on its own data in RUN; a name that is new is measured on runs that
are there, without training again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from silc import config_io
from silc.claims.plan import Run, refuse_unseen
from silc.config import IMAGENET, Config
from silc.config_rules import validate_eval
from silc.data.shards.expand import expand_shards
from silc.evaluate.results import NAME, Kept, read_results

MAIN = "main"  # the name of the data that the runs themselves are measured on
FOLDER = "also"
# Tasks of which every metric is a share, 0 to 1.
SHARES = (
    *("zeroshot_classification", "fewshot", "retrieval"),
    *("zeroshot_segmentation", "linear_segmentation", "open_vocabulary_segmentation"),
)


@dataclass(frozen=True)
class EvalSet:
    """What is measured: keys of eval laid over those of the runs.

    Attributes:
        name: in the tables, and of the folder; MAIN for the runs' own data.
        words: eval.key=value; none for MAIN.
    """

    name: str
    words: tuple[str, ...] = ()

    def config(self, run: Run) -> Config:
        """The run's configuration with this test set. Raises ValueError for words that are none."""
        return config_io.override(run.config, self.words) if self.words else run.config

    def folder(self, run: Run) -> Path:
        """Where the evaluation of a run is kept."""
        return run.folder if self.name == MAIN else run.folder / FOLDER / self.name

    def results(self, run: Run) -> list[dict[str, Any]]:
        """Results of a run's evaluation here, if it was made as the plan says; else none.

        Another evaluation of the run, by hand or by an earlier plan, may stand in its place: of other data, of some of
        the tasks, or one that was cut short.
        """
        found, _ = self._read(run)
        if found is None:
            return []
        wanted = config_io.to_dict(self.config(run))
        same_data = all(wanted["data"].get(key) == value for key, value in found.data.items())
        made = (found.step, found.options) == (run.config.train.steps, wanted["eval"])
        return found.results if made and same_data and _complete(found, wanted["eval"]["after"]) else []

    def damaged(self, run: Run) -> str:
        """How a run's evaluation here is damaged; "" where it is not, or there is none."""
        return self._read(run)[1]

    def _read(self, run: Run) -> tuple[Kept | None, str]:
        """What stands in the place of a run's evaluation here, if it is whole; how it is damaged."""
        found = read_results(self.folder(run))
        if found is None:
            return None, f"{NAME} is damaged" if (self.folder(run) / NAME).exists() else ""
        wrong = _impossible(found)
        return (None, f"{NAME} is damaged: {wrong}") if wrong else (found, "")

    def failed(self, run: Run) -> list[str]:
        """Tasks that failed, on either model."""
        return list(dict.fromkeys(result["task"] for result in self.results(run) if result["error"] is not None))

    def missing(self, run: Run) -> str:
        """Why the run is not measured here; "" where it is."""
        if self.done(run):
            return ""
        failed = self.failed(run)
        return self.damaged(run) or (f"{', '.join(failed)} failed" if failed else "not measured as asked")

    def done(self, run: Run) -> bool:
        """Whether the run is measured, and no task ended without metrics."""
        results = self.results(run)
        return bool(results) and all(result["error"] is None for result in results)

    def command(self, run: Run) -> list[str]:
        """Words for `silc evaluate` that measure a run of which the checkpoint is there.

        Every key of eval is given: the checkpoint's own may be those of an earlier plan.
        """
        options = config_io.to_dict(self.config(run))["eval"]
        words = [f"eval.{name}={json.dumps(value)}" for name, value in options.items()]
        tasks = ",".join(options["after"])
        return [str(run.folder), "--tasks", tasks, "--out", str(self.folder(run)), *words]


def _impossible(found: Kept) -> str:
    """The first figure that no share can be, in words; "" where there is none."""
    figures = (
        (f"{result['task']}, {key} of {name}", metric[key])
        for result in found.results
        if result["task"] in SHARES
        for name, metric in result["metrics"].items()
        for key in ("value", "chance")
    )
    wrong = (f"{name} is {value:g}, outside 0 to 1" for name, value in figures if not 0 <= (value or 0) <= 1)
    return next(wrong, "")


def _complete(found: Kept, wanted: Sequence[str]) -> bool:
    """Whether all tasks were measured that the data allow, each on the same models, the student among them.

    A file of an earlier version does not say which were asked for: there a task without a result counts as missing.
    """
    models: dict[str, set[str]] = {}
    for result in found.results:
        models.setdefault(result["task"], set()).add(result["model"])
    asked = tuple(models) if found.tasks is None else found.tasks
    same = len(set(map(frozenset, models.values()))) <= 1
    return set(wanted) <= set(asked) and same and all("student" in found for found in models.values())


THE_RUNS_OWN = EvalSet(MAIN)


def parse(given: Iterable[Sequence[str]]) -> list[EvalSet]:
    """Test sets from the words of each --also, the runs' own data first. Raises ValueError for what none can be."""
    found = [THE_RUNS_OWN]
    for name, *words in given:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", name):
            raise ValueError(
                f"--also {name!r}: begin with a name of letters, digits, '.', '_' or '-', as in "
                "--also new_scenes eval.sample_split=new_scenes"
            )
        if name in [one.name for one in found]:
            raise ValueError(f"--also {name}: the name is taken; give another")
        if not words:
            raise ValueError(f"--also {name} says nothing of the data; add eval.key=value, as eval.sample_split=both")
        config_io.check_words(words)
        strange = next((word for word in words if not word.startswith("eval.")), None)
        if strange is not None:
            raise ValueError(f"--also {name} {strange}: only keys of eval can differ; the rest is the run's")
        found.append(EvalSet(name, tuple(words)))
    return found


def check(one: EvalSet, run: Run) -> None:
    """Raises ValueError for words that no evaluation of the run takes, or that leave the tables empty."""
    try:
        validate_eval(one.config(run))
        refuse_unseen(one.config(run))
    except ValueError as error:
        raise ValueError(str(error) if one.name == MAIN else f"--also {one.name}: {error}") from None


def check_there(one: EvalSet, run: Run) -> None:
    """Raises ValueError for files of a further test set that are not there: before any run is trained."""
    options, where = one.config(run).eval, f"--also {one.name}"
    if options.shards:
        expand_shards(options.shards, f"{where}: eval.shards")
    for key in ("classification", "retrieval", "segmentation"):
        spec = getattr(options, key)
        if spec is not None and not Path(spec.partition(":")[2]).is_dir():
            raise ValueError(f"{where}: there is no folder {spec.partition(':')[2]!r}; give eval.{key}=LAYOUT:FOLDER")
    if options.classes not in (None, IMAGENET) and not Path(options.classes).is_file():
        raise ValueError(f"{where}: eval.classes={options.classes} is not a file")
