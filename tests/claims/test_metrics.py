"""Means, gains and slopes against NumPy and SciPy; what is read of a run's evaluation, and when."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from silc import config_io
from silc.claims import metrics, plan
from silc.claims.metrics import Mean, Measurement

CLAIM = ("retrieval", "image_to_text_r5")
PRESETS = Path(__file__).resolve().parents[2] / "silc" / "presets"


def made(values: dict[tuple[str, int, int], float]) -> list[Measurement]:
    """Measurements of CLAIM by (variant, pairs, seed), among others that must not enter."""
    wanted = [Measurement(*key, *CLAIM, value, 0.1, 1, 1, 1.0) for key, value in values.items()]
    others = [Measurement(m.variant, m.pairs, m.seed, "fewshot", CLAIM[1], 9.0, 0.1, 1, 1, 1.0) for m in wanted]
    return [*wanted, *others]


def random_measurements(seeds: int, sizes=(100, 200, 400)) -> tuple[np.ndarray, list[Measurement]]:
    """[variant (clip, silc), size, seed] and the measurements."""
    values = np.random.default_rng(seeds).random((2, len(sizes), seeds))
    variants = ("clip", "silc")
    keyed = {(variants[v], sizes[p], s): float(values[v, p, s]) for v, p, s in np.ndindex(values.shape)}
    return values, made(keyed)


@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_a_gain_is_the_paired_difference_with_its_standard_error(seeds):
    values, found = random_measurements(seeds)
    difference = values[1, 1] - values[0, 1]
    gain = metrics.gain(found, "clip", CLAIM, 200)
    assert gain.value == pytest.approx(difference.mean())
    assert gain.error == pytest.approx(stats.sem(difference))
    assert metrics.gain(found, "clip_views", CLAIM, 200) is None


def test_a_seed_that_one_variant_lacks_does_not_enter():
    found = made({("clip", 100, 0): 0.1, ("silc", 100, 0): 0.3, ("silc", 100, 1): 0.9})
    assert metrics.gain(found, "clip", CLAIM, 100) == Mean(pytest.approx(0.2), None, 1)


@pytest.mark.parametrize("seeds", [1, 4])
def test_slopes_are_those_of_least_squares_over_doublings(seeds):
    values, found = random_measurements(seeds, sizes=(100, 200, 800))
    expected = np.polyfit(np.log2([100, 200, 800]), values.reshape(2, 3, seeds).transpose(1, 0, 2).reshape(3, -1), 1)
    expected = expected[0].reshape(2, seeds)
    assert list(metrics.slope(found, "silc", CLAIM).values()) == pytest.approx(list(expected[1]))
    steeper = metrics.steeper(found, "clip", CLAIM)
    assert steeper.value == pytest.approx((expected[1] - expected[0]).mean())
    assert metrics.steeper(made({("silc", 100, 0): 1.0}), "clip", CLAIM) is None


def test_what_decides_is_students_t():
    for seeds, times in metrics.DECIDES.items():
        assert times == pytest.approx(stats.t.ppf(0.975, seeds - 1), abs=0.005)


@pytest.mark.parametrize(
    ("difference", "word"),
    [
        (None, "not measured"),
        (Mean(0.5, None, 1), "1 seed"),
        (Mean(0.5, 0.0, 2), "2 seeds"),
        (Mean(0.42, 0.1, 3), "undecided"),
        (Mean(0.44, 0.1, 3), "better"),
        (Mean(-0.44, 0.1, 3), "worse"),
        (Mean(0.23, 0.1, 100), "better"),
    ],
)
def test_verdicts(difference, word):
    assert metrics.verdict(difference) == word


@pytest.fixture
def run(tmp_path) -> plan.Run:
    run = plan.runs("sample", PRESETS, [], [6400], [0], tmp_path)[-1]
    run.folder.mkdir()
    return run


def evaluated(run: plan.Run, step: int = 100, error: str | None = None, **other: object) -> None:
    """Write an evaluation of both models, with other settings of eval than the run's if there are any."""
    metrics = {"top1": {"value": 0.25, "chance": 0.1}, "note": {"value": 1.0, "chance": None}}
    results = [
        {"task": "zeroshot_classification", "model": model, "metrics": metrics, "error": error}
        for model in ("student", "teacher")
    ]
    settings = config_io.to_dict(run.config)["eval"] | other
    (run.folder / "evaluation.json").write_text(json.dumps({"step": step, "results": results, "eval": settings}))


def test_a_run_is_read_once_its_last_evaluation_is_there(run):
    assert metrics.read(run) == []
    evaluated(run, step=50)
    assert metrics.read(run) == []
    assert not metrics.done(run)
    evaluated(run)
    assert metrics.done(run)
    first, _ = metrics.read(run)
    assert (first.variant, first.pairs, first.task, first.metric) == ("silc", 6400, "zeroshot_classification", "top1")
    assert (first.value, first.chance, first.steps, first.seen, first.flops) == (0.25, 0.1, 100, 6400, run.flops)


def test_an_evaluation_by_other_rules_or_cut_short_is_none(run):
    evaluated(run, limit=32)
    assert metrics.read(run) == []
    evaluated(run)
    path = run.folder / "evaluation.json"
    path.write_text(path.read_text()[:300])
    assert metrics.read(run) == []


def test_a_task_that_gave_up_is_to_be_tried_again(run):
    evaluated(run, error="took too long")
    assert len(metrics.read(run)) == 2
    assert not metrics.done(run)
