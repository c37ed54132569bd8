"""evaluation.json is of the shape that was written, or is as if it were not there."""

from __future__ import annotations

import json
import math
import os

import pytest

from silc import config_io
from silc.config import Config, DataConfig
from silc.evaluate import runner
from silc.evaluate.results import read_results

RESULT = {"task": "a", "model": "student", "error": None, "metrics": {"x": {"value": 0.5, "chance": None}}}
WHOLE = {"step": 3, "eval": {}, "results": [RESULT]}


def test_what_was_written_is_read(tmp_path):
    good = runner.Result("a", "student", "b", (runner.Metric("x", 0.5, 0.1, 0.01),), (), 0.0, ())
    bad = runner.Result("b", "teacher", "b", (), (), 0.0, (), "out of time")
    runner.write_json([good, bad], None, Config(), tmp_path / "evaluation.json")
    found = read_results(tmp_path)
    assert found.step is None
    assert found.options["every"] == 0
    assert [result["error"] for result in found.results] == [None, "out of time"]
    assert found.results[0]["metrics"] == {"x": {"value": 0.5, "chance": 0.1, "error": 0.01}}
    assert found.data["sample_unseen"] == ["emojione"]  # which images of the sample set were measured on
    assert set(found.data) <= set(config_io.to_dict(Config())["data"])


def test_tasks_that_were_asked_for_are_noted_and_may_be_unknown(tmp_path):
    one = runner.Result("a", "student", "b", (), (), 0.0, ())
    for tasks, found in ((("a", "without_data"), ("a", "without_data")), (None, None)):
        runner.write_json([one], None, Config(), tmp_path / "evaluation.json", tasks)
        assert read_results(tmp_path).tasks == found


@pytest.mark.parametrize("more", [{}, {"error": None}, {"error": 0.1}])
def test_metrics_of_earlier_versions_have_no_error(tmp_path, more):
    metrics = {"x": {"value": 0.5, "chance": None} | more}
    (tmp_path / "evaluation.json").write_text(json.dumps(WHOLE | {"results": [RESULT | {"metrics": metrics}]}))
    assert read_results(tmp_path).results[0]["metrics"] == metrics


@pytest.mark.parametrize("data", [None, 5, [], "absent"])
def test_files_of_earlier_versions_say_nothing_of_the_sample_set(tmp_path, data):
    (tmp_path / "evaluation.json").write_text(json.dumps(WHOLE if data == "absent" else WHOLE | {"data": data}))
    assert read_results(tmp_path).data == {}


@pytest.mark.parametrize("unseen", [["twemoji", "noto-v1", "noto"], ["noto", "noto", "twemoji", "noto-v1"]])
def test_artists_of_earlier_versions_are_in_the_order_of_a_configuration(tmp_path, unseen):
    (tmp_path / "evaluation.json").write_text(json.dumps(WHOLE | {"data": {"sample_unseen": unseen}}))
    assert read_results(tmp_path).data["sample_unseen"] == DataConfig(sample_unseen=unseen).sample_unseen
    (tmp_path / "evaluation.json").write_text(json.dumps(WHOLE | {"data": {"sample_unseen": [5, None]}}))
    assert read_results(tmp_path).data["sample_unseen"] == [5, None]


@pytest.mark.parametrize(
    "found",
    [
        [],
        5,
        {},
        WHOLE | {"results": {}},
        WHOLE | {"results": [5]},
        WHOLE | {"results": [{"error": None}]},
        WHOLE | {"results": [RESULT | {"metrics": [1]}]},
        WHOLE | {"results": [RESULT | {"metrics": {"x": 5}}]},
        WHOLE | {"results": [RESULT | {"metrics": {"x": {"value": "5", "chance": None}}}]},
        WHOLE | {"results": [RESULT | {"metrics": {"x": {"value": 10**400, "chance": None}}}]},
        WHOLE | {"results": [RESULT | {"metrics": {"x": {"value": math.nan, "chance": None}}}]},
        WHOLE | {"results": [RESULT | {"metrics": {"x": {"value": 5, "chance": math.inf}}}]},
        WHOLE | {"results": [RESULT | {"metrics": {"x": {"value": 5, "chance": None, "error": math.nan}}}]},
        WHOLE | {"results": [RESULT | {"metrics": {"x": {"value": 5}}}]},
        WHOLE | {"results": [RESULT | {"metrics": {"x": {"value": 5, "chance": None, "error": "0.1"}}}]},
        WHOLE | {"results": [RESULT | {"error": 5}]},
        WHOLE | {"results": [RESULT | {"error": "failed"}]},  # and has metrics
        WHOLE | {"results": [RESULT, RESULT]},
        WHOLE | {"results": [RESULT | {"model": "foo"}]},
        WHOLE | {"results": [RESULT | {"task": ""}]},
        WHOLE | {"results": [RESULT | {"metrics": {"\ud800x": {"value": 5, "chance": None}}}]},
        WHOLE | {"results": [RESULT | {"metrics": {"x": {"value": 1e200, "chance": None}}}]},
        WHOLE | {"results": [RESULT | {"metrics": {"x": {"value": 5, "chance": None, "error": -1}}}]},
        WHOLE | {"step": "3"},
        WHOLE | {"eval": None},
    ],
)
def test_another_shape_is_nothing(tmp_path, found):
    (tmp_path / "evaluation.json").write_text(json.dumps(WHOLE))
    assert read_results(tmp_path) is not None
    (tmp_path / "evaluation.json").write_text(json.dumps(found))
    assert read_results(tmp_path) is None


@pytest.mark.parametrize("data", [b"", b"\xff", b"[" * 100_000, b"9" * 5000, b"{}" + b" " * (16 << 20)])
def test_what_is_no_json_is_nothing(tmp_path, data):
    (tmp_path / "evaluation.json").write_bytes(data)
    assert read_results(tmp_path) is None


def test_no_file_is_nothing(tmp_path):
    assert read_results(tmp_path) is None
    os.mkfifo(tmp_path / "evaluation.json")
    assert read_results(tmp_path) is None
