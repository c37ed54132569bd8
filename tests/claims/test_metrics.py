"""What is read of a run's evaluations, on its own data and on others, and when."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from silc import config_io
from silc.claims import eval_sets, metrics, plan
from silc.claims.eval_sets import THE_RUNS_OWN, EvalSet
from silc.evaluate.results import Kept

PRESETS = Path(__file__).resolve().parents[2] / "silc" / "presets"
NEW = EvalSet("new", ("eval.sample_split=new_scenes",))


@pytest.fixture
def run(tmp_path) -> plan.Run:
    run = plan.runs(plan.Recipe("sample", PRESETS, [], tmp_path, {}), [6400], [0])[-1]
    run.folder.mkdir()
    return run


def evaluated(
    run: plan.Run,
    step: int = 100,
    error: str | None = None,
    folder: str = ".",
    more: dict[str, object] | None = None,
    **other: object,
) -> None:
    """Write an evaluation of both models, with other settings of eval than the run's if there are any.

    more: of the file's keys.
    """
    metrics = {
        "top1": {"value": 0.25, "chance": 0.1, "error": 0.02},
        "note": {"value": 1.0, "chance": None},  # as earlier versions wrote it
    }
    results = [
        {"task": "zeroshot_classification", "model": model, "metrics": {} if error else metrics, "error": error}
        for model in ("student", "teacher")
    ]
    settings = config_io.to_dict(run.config)["eval"] | other
    (run.folder / folder).mkdir(parents=True, exist_ok=True)
    (run.folder / folder / "evaluation.json").write_text(
        json.dumps({"step": step, "results": results, "eval": settings, "tasks": settings["after"]} | (more or {}))
    )


def test_a_run_is_read_once_its_last_evaluation_is_there(run):
    assert metrics.read(run) == []
    evaluated(run, step=50)
    assert metrics.read(run) == []
    assert not THE_RUNS_OWN.done(run)
    evaluated(run)
    assert THE_RUNS_OWN.done(run)
    first, second, third, _ = metrics.read(run)
    assert (first.variant, first.pairs, first.task, first.metric) == ("silc", 6400, "zeroshot_classification", "top1")
    assert (first.value, first.chance, first.error) == (0.25, 0.1, 0.02)
    assert (first.steps, first.seen, first.flops, first.data) == (100, 6400, run.flops, "main")
    assert (second.chance, second.error) == (None, None)
    assert (first.model, first.column, third.model, third.column) == ("student", "silc", "teacher", "silc_ema")


def test_another_test_set_is_read_from_a_folder_of_its_own(run):
    evaluated(run)
    assert metrics.read(run, NEW) == []
    evaluated(run, folder="also/new")
    assert metrics.read(run, NEW) == []  # of the run's own data
    assert not NEW.done(run)
    evaluated(run, folder="also/new", sample_split="new_scenes")
    assert NEW.done(run)
    assert {one.data for one in metrics.read(run, NEW)} == {"new"}
    both = [*metrics.read(run, NEW), *metrics.read(run)]
    assert metrics.data_sets(both) == ["main", "new"]
    assert {one.data for one in metrics.on(both, "new")} == {"new"}


def test_an_evaluation_by_other_rules_or_cut_short_is_none(run):
    evaluated(run, limit=32)
    assert metrics.read(run) == []
    evaluated(run)
    path = run.folder / "evaluation.json"
    path.write_text(path.read_text()[:300])
    assert metrics.read(run) == []


def test_an_evaluation_on_another_sample_set_is_none(run):
    data = {key: value for key, value in config_io.to_dict(run.config)["data"].items() if key.startswith("sample_")}
    evaluated(run, more={"data": data})
    assert THE_RUNS_OWN.done(run)
    evaluated(run, more={"data": data | {"sample_unseen": ["twemoji"]}})
    assert metrics.read(run) == []
    assert not THE_RUNS_OWN.done(run)


def test_an_evaluation_of_some_tasks_or_of_fewer_models_on_some_is_none(run):
    """Those that the data do not allow were asked for all the same."""
    evaluated(run, more={"tasks": ["zeroshot_classification"]})
    assert metrics.read(run) == []
    assert not THE_RUNS_OWN.done(run)
    path = run.folder / "evaluation.json"
    found = json.loads(path.read_text())
    del found["tasks"]  # an earlier version
    path.write_text(json.dumps(found))
    assert not THE_RUNS_OWN.done(run)
    one = found["results"][0]
    found["results"] = [one | {"task": task} for task in run.config.eval.after]
    path.write_text(json.dumps(found))
    assert THE_RUNS_OWN.done(run)
    found["results"].append(one | {"model": "teacher"})
    path.write_text(json.dumps(found))
    assert not THE_RUNS_OWN.done(run)


def test_a_task_that_gave_up_is_to_be_tried_again(run):
    evaluated(run, error="took too long")
    assert metrics.read(run) == []
    assert THE_RUNS_OWN.failed(run) == ["zeroshot_classification"]
    assert not THE_RUNS_OWN.done(run)
    evaluated(run)
    assert THE_RUNS_OWN.failed(run) == []


def test_the_tables_need_the_student(run):
    evaluated(run)
    path = run.folder / "evaluation.json"
    found = json.loads(path.read_text())
    found["results"] = [one for one in found["results"] if one["model"] == "teacher"]
    path.write_text(json.dumps(found))
    assert metrics.read(run) == []
    assert THE_RUNS_OWN.missing(run) == "not measured as asked"


@pytest.mark.parametrize("wrong", [{"value": 1.01}, {"value": -0.01}, {"chance": 2}])
def test_figures_that_no_share_can_be_are_damage(run, wrong):
    evaluated(run)
    assert THE_RUNS_OWN.damaged(run) == THE_RUNS_OWN.missing(run) == ""
    path = run.folder / "evaluation.json"
    found = json.loads(path.read_text())
    found["results"][1]["metrics"]["note"] |= wrong
    path.write_text(json.dumps(found))
    ((key, value),) = wrong.items()
    assert f"zeroshot_classification, {key} of note is {value}, outside 0 to 1" in THE_RUNS_OWN.damaged(run)
    assert not THE_RUNS_OWN.done(run)
    assert metrics.read(run) == []
    found["results"][1]["task"] = "counting"  # of another unit
    assert eval_sets._impossible(Kept(1, {}, found["results"])) == ""


def test_every_task_of_the_claims_is_known_to_have_shares():
    assert set(eval_sets.SHARES) == {task for task, _ in metrics.CLAIMS}
