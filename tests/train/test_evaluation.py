"""No evaluation on the way ends a training, whatever goes wrong in it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from silc.config import Config
from silc.distributed import World
from silc.evaluate.datasets import EvalData
from silc.evaluate.runner import Result
from silc.evaluate.sharding import Ended, TaskFailed
from silc.train import evaluation
from silc.train.stop import StopRequest

NOTHING = EvalData(None, None, None)


class Log:
    """Remembers rows."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict]] = []

    def write(self, step: int, values: dict) -> None:
        self.rows.append((step, values))


@pytest.fixture
def trainer(tmp_path, monkeypatch) -> SimpleNamespace:
    monkeypatch.setattr(evaluation, "_weights", lambda trainer: ({}, {}))
    monkeypatch.setattr(evaluation, "_towers", lambda *_: [])
    monkeypatch.setattr(evaluation.runner, "evaluate", lambda *_, **__: [])
    return SimpleNamespace(
        config=Config(),
        world=World(0, 1, torch.device("cpu")),
        state=SimpleNamespace(counters=SimpleNamespace(step=7)),
        log=Log(),
        folder=tmp_path,
        keep_folder=lambda: None,
    )


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("deep"), OSError(28, "full"), RuntimeError("CUDA")])
@pytest.mark.parametrize("where", ["_towers", "_keep"])
def test_training_goes_on_after_it(trainer, monkeypatch, capfd, where, error):
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(evaluation, where, fails)
    evaluation.on_the_way(trainer, NOTHING, StopRequest())
    said = capfd.readouterr()
    assert f"the evaluation at step 7 failed (rank 0: {type(error).__name__}" in said.out
    assert said.out.endswith("training goes on\n")
    assert "in fails" in said.err
    assert trainer.log.rows == [(7, {"eval_failed": 4})]
    with pytest.raises(TaskFailed):
        evaluation.measure(trainer, NOTHING, ["retrieval"])


def test_also_where_it_cannot_be_written(trainer, capfd):
    trainer.folder = Path("/proc/nowhere")
    evaluation.on_the_way(trainer, NOTHING, StopRequest())
    assert "training goes on" in capfd.readouterr().out


def test_a_failed_task_is_in_the_table_the_log_and_the_file(trainer, monkeypatch, capfd):
    failed = Result("retrieval", "student", "noise", (), (), 0.0, (), "MemoryError", broken=True)
    monkeypatch.setattr(evaluation.runner, "evaluate", lambda *_, **__: [failed])
    evaluation.on_the_way(trainer, NOTHING, StopRequest())
    assert "MemoryError" in capfd.readouterr().out
    assert trainer.log.rows == [(7, {"eval_failed": 1})]
    assert '"error": "MemoryError"' in (trainer.folder / "evaluation.json").read_text()


def test_what_another_rank_ran_into_ends_it_here_too(trainer, monkeypatch, capfd):
    monkeypatch.setattr(evaluation, "all_gather_objects", lambda mine: [mine, "rank 1: MemoryError"])
    evaluation.on_the_way(trainer, NOTHING, StopRequest())
    assert "failed (rank 1: MemoryError); training goes on" in capfd.readouterr().out


def test_a_signal_ends_it_without_a_metric(trainer, monkeypatch):
    def ended(*_: object, **__: object) -> None:
        raise Ended

    monkeypatch.setattr(evaluation.runner, "evaluate", ended)
    assert evaluation.on_the_way(trainer, NOTHING, StopRequest()) == {}
    assert trainer.log.rows == []
