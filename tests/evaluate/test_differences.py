"""Runs side by side: differences with their errors, and the refusal of what was not measured alike."""

from __future__ import annotations

import dataclasses
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silc import config_io
from silc.config import TASKS, Config
from silc.data.sample_set.concepts import ARTISTS
from silc.evaluate.report.differences import Measured, check_alike, difference, table
from silc.evaluate.results import Kept

OPTIONS = config_io.to_dict(Config())["eval"]


def result(task: str, data: str = "the unseen artist", model: str = "student", **metrics) -> dict:
    shaped = {
        name: {"value": value, "chance": 0.25, "error": error} if error != "none" else {"value": value, "chance": 0.25}
        for name, (value, error) in metrics.items()
    }
    return {"task": task, "model": model, "data": data, "error": None, "metrics": shaped}


def run(name: str, *results: dict, options: dict | None = None, data: dict | None = None, pairs=None) -> Measured:
    return Measured(name, Kept(5, OPTIONS | (options or {}), list(results)), data, pairs)


FIRST = run("clip", result("fewshot", ridge_5shot=(0.25, 0.03), ridge_5shot_std=(0.01, None)), pairs=32_000)
OTHER = run("silc", result("fewshot", ridge_5shot=(0.31, 0.04)), pairs=32_000)


def test_a_row_a_metric_and_a_column_a_run():
    lines = table([FIRST, OTHER], TASKS).splitlines()
    assert lines[0].split() == ["task", "model", "metric", "chance", "clip", "silc", "silc", "-", "clip"]
    assert lines[1].split() == ["pairs", "seen", "32,000", "32,000"]
    assert lines[2].split() == [
        "fewshot",
        "student",
        "ridge_5shot",
        "0.2500",
        "0.250",
        "0.310",
        "+0.060",
        "+-",
        "0.050",
    ]
    assert lines[3].startswith("+-: standard error over the choice of test images, the runs taken as independent")
    assert lines[4].startswith("not checked that the test images are the same: of clip, silc it is not known which")
    assert len(lines) == 5


def test_three_runs_each_against_the_first():
    third = run("views", result("fewshot", ridge_5shot=(0.2, None)))
    line = table([FIRST, OTHER, third], TASKS).splitlines()[2]
    assert line.split()[4:] == ["0.250", "0.310", "0.200", "+0.060", "+-", "0.050", "-0.050"]


@given(*[st.floats(0, 1)] * 4)
def test_errors_add_in_squares(one, first, error, other):
    found = difference({"value": one, "error": error}, {"value": first, "error": other})
    assert found.value == one - first
    assert math.isclose(found.error, (error**2 + other**2) ** 0.5, abs_tol=1e-12)
    assert difference({"value": one}, {"value": first, "error": other}).error is None


def test_files_of_earlier_versions_have_no_error():
    early = run("early", result("fewshot", ridge_5shot=(0.25, "none")))
    assert "+-" not in table([early, run("late", result("fewshot", ridge_5shot=(0.5, "none")))], TASKS)


def test_a_loss_says_that_lower_is_better():
    losses = [run(name, result("validation_loss", loss=(value, None))) for name, value in (("a", 3.0), ("b", 2.5))]
    assert "loss (lower is better)  0.2500  3.000  2.500  -0.500" in table(losses, TASKS)


def test_what_only_some_runs_have_is_named():
    silc = run("silc", *OTHER.kept.results, result("fewshot", model="teacher", ridge_5shot=(0.4, 0.1)),
               result("retrieval", image_to_text_r1=(0.4, 0.1)))  # fmt: skip
    text = table([FIRST, silc], TASKS)
    assert "left out: task retrieval" in text
    assert "left out: model teacher" in text
    with pytest.raises(ValueError, match="clip and silc have no metric in common: retrieval was not measured on clip;"):
        table([FIRST, silc], ["retrieval"])
    others = [result("retrieval", image_to_text_r1=(0.4, 0.1)), result("validation_loss", loss=(1.0, None))]
    lacking = "fewshot was not measured on b and c; retrieval was not measured on clip and c"
    with pytest.raises(ValueError, match=f"have no metric in common: validation_loss was .* clip and b; {lacking};"):
        table([FIRST, run("b", others[0]), run("c", others[1])], TASKS)
    with pytest.raises(ValueError, match="clip and d have no metric in common; measure them alike first"):
        table([FIRST, run("d", result("fewshot", model="teacher", ridge_5shot=(0.4, 0.1)))], TASKS)


def test_metrics_that_only_some_runs_have_are_named():
    """Of tasks and models that all runs have; a task or a model that some lack is named once."""
    silc = run("silc", result("fewshot", ridge_5shot=(0.3, 0.1), knn_5shot=(0.2, 0.1)),
               result("retrieval", image_to_text_r1=(0.4, 0.1)))  # fmt: skip
    left_out = [line for line in table([FIRST, silc], TASKS).splitlines() if "left out" in line]
    assert [line.partition("left out: ")[2] for line in left_out] == [
        "task retrieval", "metric fewshot, student, knn_5shot"
    ]  # fmt: skip
    assert "knn" not in table([FIRST, silc], TASKS, [("fewshot", "ridge_5shot")])
    many = run("many", result("fewshot", ridge_5shot=(0.3, 0.1), **{f"knn_{n}shot": (0.2, 0.1) for n in range(10)}))
    assert "fewshot, student, knn_7shot and 2 more" in table([FIRST, many], TASKS)


def test_a_task_that_failed_is_named():
    failed = result("retrieval") | {"error": "took longer than eval.timeout_minutes"}
    assert "silc: retrieval, student, has no metrics: took longer" in table(
        [FIRST, run("silc", *OTHER.kept.results, failed)], TASKS
    )


def test_brief_rows():
    both = [run(name, result("fewshot", ridge_5shot=(0.1, None), knn_5shot=(0.1, None))) for name in "ab"]
    assert "knn" in table(both, TASKS)
    assert "knn" not in table(both, TASKS, [("fewshot", "ridge_5shot")])


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (run("silc", options={"limit": 100}), r"eval\.limit is 0 and 100"),
        (run("silc", options={"templates": ["a {}"], "shots": [1]}), r"eval\.templates is .*; eval\.shots is "),
        (run("silc", result("fewshot", data="new scenes")), "fewshot was measured on the unseen artist and new scenes"),
    ],
)
def test_what_was_not_measured_alike_is_refused(other, said):
    with pytest.raises(ValueError, match=f"clip and silc were not measured alike: {said}.*; measure one of them again"):
        check_alike([FIRST, other], TASKS)


def test_what_changes_no_figure_is_no_difference():
    harmless = {"batch": 3, "models": ["student"], "every": 7, "report": False, "timeout_minutes": 1.0}
    early = run("early", *OTHER.kept.results)
    early.kept.options.pop("sample_split")  # of a version without that key
    check_alike([FIRST, run("silc", *OTHER.kept.results, options=harmless), early], TASKS)
    other = run("silc", result("fewshot"), result("retrieval", data="another"))
    check_alike([run("a", result("fewshot"), result("retrieval")), other], ["fewshot"])


def test_other_test_images_of_the_sample_set_are_refused():
    one, other = ({"sample_unseen": [artist], "sample_captions": artist} for artist in ("emojione", "twemoji"))
    runs = [run(name, *OTHER.kept.results, data=data) for name, data in (("clip", one), ("silc", other))]
    with pytest.raises(ValueError, match=r"data\.sample_unseen is \['emojione'\] and \['twemoji'\]; they were trained"):
        check_alike(runs, TASKS)
    unknown = run("early", *OTHER.kept.results)
    check_alike([runs[0], unknown], TASKS)
    assert "the test images are the same: of early it is not known" in table([runs[0], unknown], TASKS)
    assert "test images are the same" not in table(runs, TASKS)
    own = [run(name, result("fewshot", data="imagenet"), data=data) for name, data in (("clip", one), ("silc", other))]
    check_alike(own, TASKS)


@pytest.mark.parametrize(
    ("tested", "left_out", "way"),
    [
        (("emojione", "twemoji"), (None, None), "was trained on, silc evaluate RUN data.sample_unseen=[emojione]"),
        (("twemoji", "fxemoji"), ({"twemoji"}, {"fxemoji"}), "data.sample_unseen=[emojione]"),
        (("twemoji", "emojione"), ({"twemoji"}, set(ARTISTS)), "measure one of them again with the other's options"),
        (("emojione", "twemoji"), ({"twemoji"}, {"twemoji"}), "measure one of them again with the other's options"),
        (("twemoji", "fxemoji"), ({"twemoji"}, {"twemoji", "fxemoji"}), "data.sample_unseen=[emojione,twemoji]"),
    ],
)
def test_runs_are_not_sent_to_be_measured_on_artists_that_they_were_trained_on(tested, left_out, way):
    runs = [
        dataclasses.replace(
            run(name, *OTHER.kept.results, data={"sample_unseen": [artist]}),
            left_out=None if unseen is None else frozenset(unseen | {"emojione"}),
        )
        for name, artist, unseen in zip(("clip", "silc"), tested, left_out, strict=True)
    ]
    with pytest.raises(ValueError, match=re.escape(way)) as refused:
        check_alike(runs, TASKS)
    assert ("trained without different artists" in str(refused.value)) == ("sample_unseen=[" in way)
