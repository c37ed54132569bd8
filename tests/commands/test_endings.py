"""How a run ends when something goes wrong outside training."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from silc import distributed
from silc.config import Config, TrainConfig
from silc.distributed import World
from silc.errors import RunStopped
from silc.evaluate.runner import Result
from silc.evaluate.sharding import Ended
from silc.train import run

WORLD = World(0, 1, torch.device("cpu"))


class Trained:
    """A trainer that has nothing left to do."""

    def __init__(self, config: Config, *_arguments: object) -> None:
        self.config, self.world, self.folder, self.kept = config, WORLD, Path("run"), None

    def run(self, evaluate: object) -> SimpleNamespace:
        return SimpleNamespace(step=4)

    def saved(self) -> Path:
        path = self.folder / "checkpoints" / "step_00000004"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def close(self, *, waits: bool) -> None:
        """Nothing is open."""


@pytest.fixture
def done(monkeypatch) -> list[str]:
    """What a run does after training."""
    happened: list[str] = []
    monkeypatch.setattr(run, "init", lambda minutes: WORLD)
    monkeypatch.setattr(run.sources, "resolve", lambda *_: ([], object()))
    monkeypatch.setattr(run, "start", Trained)
    written = SimpleNamespace(exported=SimpleNamespace(call="import open_clip"), described=lambda: None)
    monkeypatch.setattr(run.export, "write_export", lambda *_, **__: happened.append("export") or written)
    return happened


def fitting() -> Config:
    config = Config(preset="mine")
    config.optim.warmup_steps = config.optim.cooldown_steps = 0
    return config


def test_a_failed_last_evaluation_costs_nothing_but_itself(done, monkeypatch, capsys, tmp_path):
    def fails(*_arguments: object) -> None:
        done.append("evaluation")
        raise KeyError("a class")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run.evaluation, "measure", fails)
    assert run.train(fitting()) == 1
    assert done == ["export", "evaluation"]
    last = capsys.readouterr().err.splitlines()[-1]
    assert "the last evaluation failed ('a class'); the run is trained, saved and exported" in last
    assert "silc evaluate run" in last


def test_in_python_a_run_returns_its_folder_and_raises_what_a_command_prints(done, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run.evaluation, "measure", lambda *_: (done.append("evaluation"), []))
    monkeypatch.setattr(run, "_show", lambda *words: done.append(words[-1]))
    assert run.run(fitting(), ["silc", "train"]) == Path("run")
    assert done == ["export", "evaluation", ["silc", "train"]]

    def fails(*_arguments: object) -> None:
        raise KeyError("a class")

    monkeypatch.setattr(run.evaluation, "measure", fails)
    with pytest.raises(RunStopped, match=r"the last evaluation failed \('a class'\)"):
        run.run(fitting(), [])
    with pytest.raises(ValueError, match=r"train\.micro_batch=3 does not divide"):
        run.run(replace(fitting(), train=TrainConfig(global_batch=8, micro_batch=3)), [])


def test_a_task_of_the_last_evaluation_that_breaks_is_told_when_the_others_are_kept(done, monkeypatch, tmp_path):
    broken = Result("retrieval", "student", "noise", (), (), 0.0, (), "MemoryError: 9 GB", broken=True)
    late = replace(broken, error="retrieval took longer than", broken=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "_show", lambda *words: done.append("report"))
    monkeypatch.setattr(run.evaluation, "measure", lambda *_: ([], [late]))
    assert run.run(fitting(), []) == Path("run")
    monkeypatch.setattr(run.evaluation, "measure", lambda *_: ([], [late, broken]))
    with pytest.raises(RunStopped, match=r"the last evaluation failed \(retrieval, student: MemoryError: 9 GB\)"):
        run.run(fitting(), [])
    assert done == ["export", "report"] * 2


def test_a_full_disk_while_logging_is_one_line(done, monkeypatch, capsys, tmp_path):
    def full(_trainer: Trained, evaluate: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Trained, "run", full)
    assert run.train(fitting()) == 1
    said = capsys.readouterr().err
    assert "the run folder run cannot be written: No space left on device" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EDQUOT, "make room in the quota"),
        (errno.EROFS, "its disk is mounted read-only"),
        (errno.EISDIR, "move away what stands there"),
        (errno.EFBIG, "raise the limit on the size of a file (ulimit -f)"),
    ],
)
def test_what_keeps_the_folder_from_being_written_is_named(done, monkeypatch, capsys, tmp_path, number, said):
    def fails(_trainer: Trained, evaluate: object) -> None:
        raise OSError(number, os.strerror(number), "run/metrics.jsonl")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Trained, "run", fails)
    assert run.train(fitting()) == 1
    assert f"the run folder run cannot be written: {os.strerror(number)}; {said}" in capsys.readouterr().err


def test_a_signal_after_the_last_step_leaves_the_evaluation_to_the_next_start(done, monkeypatch, capsys, tmp_path):
    """In the last save, say; and in the middle of the evaluation."""

    def save(trainer: Trained) -> Path:
        os.kill(os.getpid(), signal.SIGTERM)
        return path

    path = tmp_path / "step"
    path.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Trained, "state", SimpleNamespace(counters=SimpleNamespace(step=4)), raising=False)
    monkeypatch.setattr(run.evaluation, "measure", lambda *_: done.append("evaluation"))
    with monkeypatch.context() as patch:
        patch.setattr(Trained, "saved", save)
        assert run.train(fitting()) == 75
    assert done == ["export"]
    assert "stopped by SIGTERM after step 4 of" in capsys.readouterr().out

    def ended(*_arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        raise Ended

    monkeypatch.setattr(run.evaluation, "measure", ended)
    assert run.train(fitting()) == 75
    assert "stopped by SIGUSR1 after step 4" in capsys.readouterr().out


def test_a_signal_when_nothing_is_left_to_do_changes_nothing(done, monkeypatch, tmp_path):
    def shown(*_arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("report")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run.evaluation, "measure", lambda *_: ([], []))
    monkeypatch.setattr(run, "_show", shown)
    assert run.train(fitting()) == 0
    assert done == ["export", "report"]


def test_a_checkpoint_that_is_removed_during_the_evaluation_is_written_again(done, monkeypatch, tmp_path):
    def removes(trainer: Trained, *_arguments: object) -> tuple[list, list]:
        shutil.rmtree(trainer.folder / "checkpoints")
        return [], []

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run.evaluation, "measure", removes)
    monkeypatch.setattr(run, "_show", lambda *_: None)
    assert run.train(fitting()) == 0
    assert done == ["export", "export"]
    assert (tmp_path / "run" / "checkpoints" / "step_00000004").is_dir()


def test_a_port_in_use_is_one_line(monkeypatch, capsys):
    def taken(**_options: object) -> None:
        raise torch.distributed.DistNetworkError("The server socket has failed to listen (errno: 98 - EADDRINUSE)")

    import deepspeed

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setattr(deepspeed, "init_distributed", taken)
    with pytest.raises(ValueError, match=r"port 29500 is in use by another job.*--master_port 29511"):
        distributed.init(1.0)
