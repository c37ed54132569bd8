"""What the runs found: figures of their evaluations, means over seeds, and what SILC gains over each baseline."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from silc import config_io
from silc.claims.plan import SHOTS, SILC, Run

# (task, figure) -> how it is called: one for each claim of the abstract.
CLAIMS: dict[tuple[str, str], str] = {
    ("zeroshot_classification", "top1"): "zero-shot classification, top-1",
    ("fewshot", f"ridge_{SHOTS}shot"): f"few-shot classification, {SHOTS} a class",
    ("retrieval", "image_to_text_r5"): "image to text, R@5",
    ("retrieval", "text_to_image_r5"): "text to image, R@5",
    ("zeroshot_segmentation", "miou"): "zero-shot segmentation, mIoU",
    ("linear_segmentation", "miou"): "linear segmentation, mIoU",
    ("open_vocabulary_segmentation", "unseen_miou"): "open-vocabulary segmentation, unseen classes, mIoU",
}
# Student's t, two-sided, 95 %: so many standard errors from 0 decide, by number of seeds; more than the last: as its.
# Two seeds decide nothing: coarse figures agree by chance, and then seem to have no error.
DECIDES = {3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}


@dataclass(frozen=True)
class Figure:
    """One number of one run."""

    arm: str
    pairs: int
    seed: int
    task: str
    figure: str
    value: float
    chance: float | None
    steps: int
    seen: int
    flops: float


class Mean(NamedTuple):
    """Over seeds. error: standard error of the mean; None of a single seed."""

    value: float
    error: float | None
    seeds: int


def evaluation(run: Run) -> list[dict[str, Any]]:
    """Results of a run's last evaluation, if it was made as the plan says; else none.

    Another evaluation of the run, by hand or by an earlier plan, may stand in its place, or one that was cut short.
    """
    try:
        found = json.loads((run.folder / "evaluation.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return []
    wanted = config_io.to_dict(run.config)["eval"]
    return found["results"] if (found["step"], found.get("eval")) == (run.config.train.steps, wanted) else []


def done(run: Run) -> bool:
    """Whether there is nothing left to do: measured, and no task gave up."""
    results = evaluation(run)
    return bool(results) and all(result["error"] is None for result in results)


def read(run: Run) -> list[Figure]:
    """The student's figures in a run's last evaluation; none where it has not come to its end."""
    train = run.config.train
    return [
        Figure(
            *(run.arm, run.pairs, run.seed, result["task"], name, metric["value"], metric["chance"]),
            *(train.steps, run.seen, run.flops),
        )
        for result in evaluation(run)
        if result["model"] == "student"
        for name, metric in result["metrics"].items()
    ]


def mean(values: Sequence[float]) -> Mean:
    if len(values) == 1:
        return Mean(values[0], None, 1)
    return Mean(statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values)), len(values))


def of(figures: Iterable[Figure], arm: str, claim: tuple[str, str], pairs: int) -> dict[int, Figure]:
    """By seed."""
    return {f.seed: f for f in figures if (f.arm, f.task, f.figure, f.pairs) == (arm, *claim, pairs)}


def gain(figures: Sequence[Figure], baseline: str, claim: tuple[str, str], pairs: int) -> Mean | None:
    """SILC less the baseline, seed by seed; None where no seed has both."""
    ours, theirs = (of(figures, arm, claim, pairs) for arm in (SILC, baseline))
    differences = [ours[seed].value - theirs[seed].value for seed in ours if seed in theirs]
    return mean(differences) if differences else None


def slope(figures: Sequence[Figure], arm: str, claim: tuple[str, str]) -> dict[int, float]:
    """By seed: what a doubling of the pairs adds to a figure, by least squares; of seeds with two numbers of pairs."""
    mine = [f for f in figures if (f.arm, f.task, f.figure) == (arm, *claim)]
    found = {}
    for seed in dict.fromkeys(f.seed for f in mine):
        points = [(math.log2(f.pairs), f.value) for f in mine if f.seed == seed]
        if len(points) > 1:
            found[seed] = statistics.linear_regression(*zip(*points, strict=True)).slope
    return found


def steeper(figures: Sequence[Figure], baseline: str, claim: tuple[str, str]) -> Mean | None:
    """What a doubling of the pairs adds to SILC more than to the baseline, seed by seed."""
    ours, theirs = (slope(figures, arm, claim) for arm in (SILC, baseline))
    differences = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    return mean(differences) if differences else None


def verdict(difference: Mean | None) -> str:
    """In words. Fewer than three seeds decide nothing."""
    if difference is None:
        return "not measured"
    if difference.seeds < min(DECIDES):
        return f"{difference.seeds} seed{'s' * (difference.seeds > 1)}"
    if abs(difference.value) <= DECIDES[min(difference.seeds, max(DECIDES))] * difference.error:
        return "undecided"
    return "better" if difference.value > 0 else "worse"
