"""Running tasks, tabulating and writing results; that measuring changes no state."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from silc import config_io
from silc.config import Config
from silc.data.splits import DataSet
from silc.distributed import World
from silc.errors import StoreFailed
from silc.evaluate import runner, sharding
from silc.evaluate.datasets import EvalData
from silc.evaluate.sharding import Ended, Job, ended_when
from silc.evaluate.tasks import TASKS
from silc.evaluate.towers import build_towers

from .conftest import NAMES, Memory, random_images

BOTH = ["zeroshot_classification", "retrieval"]


@pytest.fixture
def data() -> EvalData:
    split = Memory(random_images(8), [n % 7 for n in range(8)], [[f"thing {n}"] for n in range(8)])
    known = DataSet("noise", NAMES, split)
    return EvalData(known, known, None)


def test_the_tasks_are_those_of_the_configuration():
    from silc import config

    assert tuple(TASKS) == config.TASKS


def test_what_is_to_be_known_of_the_files_stands_with_the_protocol(config, towers, world, data):
    noted = replace(data.classification, notes=("left out 2 files",))
    (result,) = runner.evaluate(config, [towers], EvalData(noted, None, None), BOTH[:1], world, strict=True)
    assert result.notes[-1] == "left out 2 files"
    assert "; left out 2 files" in runner.table([result], data, BOTH)


def test_evaluation_changes_no_state(config, model, towers, world, data, segmented):
    config.eval.short_side, config.eval.window, config.eval.stride = 32, 16, 16
    config.eval.probe_steps = config.eval.decoder_steps = 3
    model.train()
    before = [value.clone() for value in model.state_dict().values()]
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    everything = EvalData(data.classification, data.retrieval, segmented)
    results = runner.evaluate(config, [towers], everything, list(TASKS), world, strict=True)
    assert [result.task for result in results] == [name for name in TASKS if name != "fewshot"]
    for was, now in zip(before, model.state_dict().values(), strict=True):
        assert torch.equal(was, now)
    assert model.training
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002
    assert states[2] == random.getstate()


def test_a_slow_task_is_given_up_by_name_and_the_next_one_runs(config, towers, world, data, monkeypatch):
    monkeypatch.setattr(runner.Job, "check", _late_for("retrieval"))
    results = runner.evaluate(config, [towers], data, [*reversed(BOTH)], world, strict=False)
    late, fine = results
    assert late.error.startswith("retrieval, student took longer than eval.timeout_minutes=30 on rank 0")
    assert not late.metrics
    assert fine.error is None
    assert "retrieval, student took longer" in runner.table(results, data, BOTH)


def _late_for(task: str):
    real = runner.Job.check

    def check(job) -> None:
        if job._title.startswith(task):
            job._ends = 0.0
        real(job)

    return check


def test_a_mistake_in_the_data_ends_an_evaluation_but_not_a_run(config, towers, world, data):
    empty = EvalData(DataSet("none", NAMES, Memory([None], labels=[0])), data.retrieval, None)
    with pytest.raises(ValueError, match="zeroshot_classification: in memory: none of 1 image can be used"):
        runner.evaluate(config, [towers], empty, BOTH, world, strict=True)
    broken, fine = runner.evaluate(config, [towers], empty, BOTH, world, strict=False)
    assert "none of 1 image" in broken.error
    assert fine.metrics


@pytest.mark.parametrize(
    "error", [MemoryError(), RecursionError("deep"), OSError(28, "full"), KeyError("x"), StoreFailed("gone")]
)
def test_whatever_ends_a_task_the_next_one_runs(config, towers, world, data, monkeypatch, capsys, error):
    def fails(model, data, job):
        raise error

    monkeypatch.setitem(TASKS, "retrieval", replace(TASKS["retrieval"], run=fails))
    for strict in (False, True):
        broken, fine = runner.evaluate(config, [towers], data, [*reversed(BOTH)], world, strict=strict)
        assert broken.error.startswith(type(error).__name__)
        assert (broken.broken, broken.metrics) == (True, ())
        assert fine.metrics
        assert (fine.broken, fine.error) == (False, None)
        assert "in fails" in capsys.readouterr().err  # where it happened
    assert runner.scalars([broken, fine])["eval_failed"] == 1
    assert "eval_failed" not in runner.scalars([fine])
    assert broken.error in runner.table([broken, fine], data, BOTH)


def test_messages_are_short(config, towers, world, data, monkeypatch):
    def fails(model, data, job):
        raise KeyError("x" * 10**6)

    monkeypatch.setitem(TASKS, "retrieval", replace(TASKS["retrieval"], run=fails))
    (result,) = runner.evaluate(config, [towers], data, ["retrieval"], world, strict=False)
    assert len(result.error) < 1100


@pytest.mark.parametrize("task", ["zeroshot_segmentation", "linear_segmentation", "open_vocabulary_segmentation"])
def test_images_that_cannot_be_read_are_counted_by_reason(config, towers, world, segmented, task):
    config.eval.short_side, config.eval.window, config.eval.stride = 32, 16, 16
    lost = Memory([None] * 3, masks=segmented.train._masks[:3])
    data = DataSet("lost", segmented.classes, lost, lost)
    (result,) = runner.evaluate(config, [towers], EvalData(None, None, data), [task], world, strict=False)
    assert "of 3 masks" in result.error
    assert result.error.endswith("; undecodable image (3)")


def test_a_split_without_a_readable_image_says_why(config, towers, world):
    data = EvalData(DataSet("none", NAMES, Memory([None] * 5, labels=[0] * 5)), None, None)
    (result,) = runner.evaluate(config, [towers], data, ["zeroshot_classification"], world, strict=False)
    assert result.error == "in memory: none of 5 images can be used; undecodable image (5)"


def test_an_evaluation_ends_between_two_pieces_of_work(config, towers, world, data):
    """When asked to: no task goes on, and none becomes a result with an error."""
    config.eval.batch = 1
    for pieces in (0, 3):
        looks = iter(range(1000))
        with pytest.raises(Ended), ended_when(lambda: next(looks) >= pieces):  # noqa: B023
            runner.evaluate(config, [towers], data, BOTH, world, strict=False)
        assert next(looks) == pieces + 1
    assert len(runner.evaluate(config, [towers], data, BOTH, world, strict=True)) == 2


def test_ranks_leave_an_evaluation_together(config, towers, world, data, monkeypatch):
    """Where another one was asked: in an exchange of a task, or between it and the task's end."""
    two = World(0, 2, world.device)
    monkeypatch.setattr(sharding, "all_gather_objects", lambda mine: [mine, (Ended(), None, set())])
    with pytest.raises(Ended):
        runner.evaluate(config, [towers], data, BOTH, two, strict=False)
    with pytest.raises(Ended):
        Job(config, two, "a task").settle()
    monkeypatch.setattr(sharding, "all_gather_objects", lambda mine: [mine, (None, None, set())])
    Job(config, two, "a task").settle()


def test_a_metric_without_a_value_is_left_out(config, towers, world, data, monkeypatch, tmp_path):
    """For example the mean IoU of unseen classes, when no pixel has or is guessed to have one."""
    values = [runner.Metric("seen_miou", 0.5, 0.1), runner.Metric("unseen_miou", float("nan"), 0.0)]
    task = replace(TASKS["retrieval"], run=lambda model, data, job: iter(values))
    monkeypatch.setitem(TASKS, "retrieval", task)
    (result,) = runner.evaluate(config, [towers], data, ["retrieval"], world, strict=True)
    assert result.metrics == (values[0],)
    assert result.notes == ("left out, as no data contributes to them: unseen_miou",)
    bare = runner.Result("x", "student", "y", (runner.Metric("z", float("nan")),), (), 0.0, ())
    with pytest.raises(ValueError, match="not JSON compliant"):
        runner.write_json([bare], 1, Config(), tmp_path / "x.json")
    assert not (tmp_path / "x.json").exists()


def test_the_table_has_chance_beside_each_metric_and_what_is_left_out(config, towers, world, data):
    results = runner.evaluate(config, [towers], data, list(TASKS), world, strict=True)
    lines = runner.table(results, data, list(TASKS)).splitlines()
    assert lines[0].split() == ["task", "model", "metric", "value", "chance", "data"]
    top1 = next(line for line in lines if "top1" in line).split()
    assert top1[:3] == ["zeroshot_classification", "student", "top1"]
    found = next(result for result in results if result.task == "zeroshot_classification")
    assert float(top1[3]) == pytest.approx(found.metrics[0].value, abs=1e-3)
    assert top1[4:] == ["0.1429", "noise"]
    assert "fewshot is left out: noise has no training split" in lines
    assert "zeroshot_segmentation is left out: no data set (eval.segmentation)" in lines
    assert any(line.startswith("retrieval, student (") and "equal captions" in line for line in lines)


def test_results_are_kept_as_json_and_as_scalars(config, towers, world, data, tmp_path):
    results = runner.evaluate(config, [towers], data, BOTH, world, strict=True)
    runner.write_json(results, 7, config, tmp_path / "x.json")
    saved = json.loads((tmp_path / "x.json").read_text())
    assert saved["step"] == 7
    assert saved["eval"] == config_io.to_dict(config)["eval"]
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    first = results[0].metrics[0]
    assert saved["results"][0]["metrics"]["top1"] == {"value": first.value, "chance": 1 / 7, "error": first.error}
    assert saved["data"]["sample_unseen"] == config.data.sample_unseen
    assert runner.scalars(results)["eval/retrieval/student/image_to_text_r1"] == results[1].metrics[0].value


def test_the_teacher_is_its_image_tower_beside_the_students_text(config, model):
    average = {name: value + 0.1 for name, value in model.state_dict().items() if name.startswith(("visual.", "head."))}
    student, teacher = build_towers(config, model.state_dict(), average, torch.device("cpu"), torch.float32)
    assert (student.name, teacher.name) == ("student", "teacher")
    images = torch.stack(random_images(2)).permute(0, 3, 1, 2)
    assert torch.equal(student.texts(["a"]), teacher.texts(["a"]))
    assert not torch.allclose(student.images(images), teacher.images(images))
    with torch.no_grad():
        torch.testing.assert_close(student.images(images), model.encode_image(images, normalize=True))


def test_a_head_only_average_has_no_teacher_to_measure(config, model):
    head = {name: value for name, value in model.state_dict().items() if name.startswith("head.")}
    assert [t.name for t in build_towers(config, model.state_dict(), head, torch.device("cpu"), torch.float32)] == [
        "student"
    ]


def test_weights_of_another_model_are_refused(config, model):
    config.model.vision.width = 64
    with pytest.raises(ValueError, match=r"visual\.trunk\.pos_embed needs \(1, 4, 64\), found \(1, 4, 32\)"):
        build_towers(config, model.state_dict(), {}, torch.device("cpu"), torch.float32)
