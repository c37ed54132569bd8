"""What the runs measured: metrics of their evaluations, means over seeds, and what SILC gains over each baseline."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from silc import config_io
from silc.claims.plan import SHOTS, SILC, Run
from silc.evaluate.results import read_results
from silc.text import plural

# (task, metric) -> its name in the tables: one for each claim of the abstract.
CLAIMS: dict[tuple[str, str], str] = {
    ("zeroshot_classification", "top1"): "zero-shot classification, top-1",
    ("fewshot", f"ridge_{SHOTS}shot"): f"few-shot classification, {SHOTS} images per class",
    ("retrieval", "image_to_text_r5"): "image to text, R@5",
    ("retrieval", "text_to_image_r5"): "text to image, R@5",
    ("zeroshot_segmentation", "miou"): "zero-shot segmentation, mIoU",
    ("linear_segmentation", "miou"): "linear segmentation, mIoU",
    ("open_vocabulary_segmentation", "unseen_miou"): "open-vocabulary segmentation, unseen classes, mIoU",
}
# Student's t, two-sided, 95 %: number of seeds -> standard errors from 0 that decide; beyond the last one, its value.
# Two seeds decide nothing: coarse metrics agree by chance, and then seem to have no error.
DECIDES = {3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}


@dataclass(frozen=True)
class Measurement:
    """One metric of one run; a row of claims.csv."""

    variant: str
    pairs: int
    seed: int
    task: str
    metric: str
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
    found = read_results(run.folder)
    wanted = config_io.to_dict(run.config)["eval"]
    made = found is not None and (found.step, found.options) == (run.config.train.steps, wanted)
    return found.results if found is not None and made else []


def done(run: Run) -> bool:
    """Whether the run is measured, and no task ended without metrics."""
    results = evaluation(run)
    return bool(results) and all(result["error"] is None for result in results)


def read(run: Run) -> list[Measurement]:
    """The student's metrics in a run's last evaluation; none where the run has not come to its end."""
    train = run.config.train
    return [
        Measurement(
            run.variant,
            run.pairs,
            run.seed,
            result["task"],
            name,
            metric["value"],
            metric["chance"],
            train.steps,
            run.seen,
            run.flops,
        )
        for result in evaluation(run)
        if result["model"] == "student"
        for name, metric in result["metrics"].items()
    ]


def mean(values: Sequence[float]) -> Mean:
    """Mean and its standard error."""
    if len(values) == 1:
        return Mean(values[0], None, 1)
    return Mean(statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values)), len(values))


def select(measured: Iterable[Measurement], variant: str, claim: tuple[str, str], pairs: int) -> dict[int, Measurement]:
    """Seed -> the measurement of a claim's metric in the variant's run on so many pairs."""
    return {m.seed: m for m in measured if (m.variant, m.task, m.metric, m.pairs) == (variant, *claim, pairs)}


def gain(measured: Sequence[Measurement], baseline: str, claim: tuple[str, str], pairs: int) -> Mean | None:
    """SILC minus the baseline, seed by seed; None where no seed has both."""
    ours, theirs = (select(measured, variant, claim, pairs) for variant in (SILC, baseline))
    differences = [ours[seed].value - theirs[seed].value for seed in ours if seed in theirs]
    return mean(differences) if differences else None


def slope(measured: Sequence[Measurement], variant: str, claim: tuple[str, str]) -> dict[int, float]:
    """By seed: what a doubling of the pairs adds, by least squares; of seeds with two numbers of pairs or more."""
    mine = [m for m in measured if (m.variant, m.task, m.metric) == (variant, *claim)]
    found = {}
    for seed in dict.fromkeys(m.seed for m in mine):
        points = [(math.log2(m.pairs), m.value) for m in mine if m.seed == seed]
        if len(points) > 1:
            found[seed] = statistics.linear_regression(*zip(*points, strict=True)).slope
    return found


def steeper(measured: Sequence[Measurement], baseline: str, claim: tuple[str, str]) -> Mean | None:
    """What a doubling of the pairs adds to SILC more than to the baseline, seed by seed."""
    ours, theirs = (slope(measured, variant, claim) for variant in (SILC, baseline))
    differences = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    return mean(differences) if differences else None


def verdict(difference: Mean | None) -> str:
    """The difference in words. Fewer than three seeds decide nothing."""
    if difference is None:
        return "not measured"
    if difference.seeds < min(DECIDES):
        return plural(difference.seeds, "seed")
    error = difference.error or 0.0
    if abs(difference.value) <= DECIDES[min(difference.seeds, max(DECIDES))] * error:
        return "undecided"
    return "better" if difference.value > 0 else "worse"
