"""What the runs measured: metrics of their evaluations, a row each, and which of them answer the claims."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from silc.claims.eval_sets import MAIN, THE_RUNS_OWN, EvalSet
from silc.claims.plan import SHOTS, SILC, VARIANTS, Run

Claim = tuple[str, str]  # (task, metric)

# A claim -> its name in the tables: one for each claim of the abstract.
CLAIMS: dict[Claim, str] = {
    ("zeroshot_classification", "top1"): "zero-shot classification, top-1",
    ("fewshot", f"ridge_{SHOTS}shot"): f"few-shot classification, {SHOTS} images per class",
    ("retrieval", "image_to_text_r5"): "image to text, R@5",
    ("retrieval", "text_to_image_r5"): "text to image, R@5",
    ("zeroshot_segmentation", "miou"): "zero-shot segmentation, mIoU",
    ("linear_segmentation", "miou"): "linear segmentation, mIoU",
    ("open_vocabulary_segmentation", "unseen_miou"): "open-vocabulary segmentation, unseen classes, mIoU",
}
# Of images with two classes or more: mIoU over all classes mostly measures classification.
WHERE: dict[Claim, str] = {
    (task, metric): f"{title}, {name}"
    for task, title in (("zeroshot_segmentation", "zero-shot"), ("linear_segmentation", "linear"))
    for metric, name in {
        "present_accuracy": "accuracy among the present classes",
        "present_miou": "mIoU among the present classes",
        "object_recall": "recall of an object",
        "localization_auc": "localization AUC",
    }.items()
}
# Columns of the tables: of each run its student, and where it keeps an average of the weights that model too.
COLUMNS = tuple(name for variant in VARIANTS for name in (variant, f"{variant}_ema"))
BASELINES = ("clip", "clip_views", "clip_compute", "clip_views_ema", "silc_global")
# Beside SILC minus each baseline: both with averaged weights, the one without distillation.
AVERAGED = ("silc_ema", "clip_views_ema")
MEANING = {
    "clip": "plain CLIP, as many pairs (student of the run clip)",
    "clip_views": "CLIP on SILC's augmented global views, as many pairs (student of the run clip_views)",
    "clip_views_ema": "the same with an averaged image tower, no distillation (teacher of the run clip_views)",
    "clip_compute": "plain CLIP, trained longer: as many floating-point operations as SILC (student of clip_compute)",
    "silc_global": "SILC without local crops: it distils from one global view to the other (student of silc_global)",
    "silc_global_ema": "the same with the averaged image tower (teacher of the run silc_global)",
    SILC: "SILC (student of the run silc)",
    "silc_ema": "SILC with the averaged image tower (teacher of the run silc)",
}


@dataclass(frozen=True)
class Measurement:
    """One metric of one model of one run; a row of claims.csv.

    Attributes:
        variant, pairs, seed: of the run, see :class:`silc.claims.plan.Run`.
        model: student or teacher.
        data: name of the test set; "main" is the runs' own.
        task, metric, value, chance, error: as evaluation.json has them; error: bootstrap over the test images.
        steps, seen, flops: of the whole training.
    """

    variant: str
    pairs: int
    seed: int
    model: str
    data: str
    task: str
    metric: str
    value: float
    chance: float | None
    error: float | None
    steps: int
    seen: int
    flops: float

    @property
    def column(self) -> str:
        """Of the tables: the variant, with _ema for its teacher."""
        return self.variant if self.model == "student" else f"{self.variant}_ema"


def evaluation(run: Run) -> list[dict[str, Any]]:
    """Results of a run on its own data, see :meth:`EvalSet.results`."""
    return THE_RUNS_OWN.results(run)


def read(run: Run, on: EvalSet = THE_RUNS_OWN) -> list[Measurement]:
    """The metrics of a run's evaluation on a test set; none where the run has not come to its end."""
    steps, seen, flops = run.config.train.steps, run.seen, run.flops
    return [
        Measurement(
            run.variant,
            run.pairs,
            run.seed,
            result["model"],
            on.name,
            result["task"],
            name,
            metric["value"],
            metric["chance"],
            metric.get("error"),
            steps,
            seen,
            flops,
        )
        for result in on.results(run)
        for name, metric in result["metrics"].items()
    ]


def select(measured: Iterable[Measurement], column: str, claim: Claim, pairs: int) -> dict[int, Measurement]:
    """Seed -> the measurement of a claim's metric in a column, after so many pairs. `measured`: of one test set."""
    return {m.seed: m for m in measured if (m.column, m.task, m.metric, m.pairs) == (column, *claim, pairs)}


def on(measured: Iterable[Measurement], data: str) -> list[Measurement]:
    """The measurements on one test set."""
    return [one for one in measured if one.data == data]


def data_sets(measured: Iterable[Measurement]) -> list[str]:
    """Names of the test sets, the runs' own first."""
    names = dict.fromkeys(one.data for one in measured)
    return [*([MAIN] if MAIN in names else []), *(name for name in names if name != MAIN)]


def columns(measured: Iterable[Measurement]) -> list[str]:
    """The columns that have a measurement, in their order."""
    known = {one.column for one in measured}
    return [column for column in COLUMNS if column in known]


def known(measured: Iterable[Measurement], claims: dict[Claim, str]) -> dict[Claim, str]:
    """Those of `claims` that some run has a metric for: data may not serve every task."""
    found = {(one.task, one.metric) for one in measured}
    return {claim: name for claim, name in claims.items() if claim in found}
