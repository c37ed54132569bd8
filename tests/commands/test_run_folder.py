"""Which folder a run writes to: a new run never writes over an old one, nor beside one that has just begun."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from silc.config import Config
from silc.distributed import World
from silc.train import lock, run_folder
from silc.train.lock import LOCK, Held, Lock
from silc.train.run_folder import RunFolder

from .conftest import checkout, environment

WORLD = World(0, 1, torch.device("cpu"))


@pytest.fixture
def config(tmp_path, monkeypatch) -> Config:
    monkeypatch.chdir(tmp_path)
    return Config(preset="mine")


def chosen(config: Config) -> Path:
    """The folder that a run would get; it fails afterwards."""
    folder = run_folder.choose(config, WORLD)
    assert (folder.path / LOCK).exists()
    folder.leave()
    return folder.path


def take(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text("")
    return folder


def test_unnamed_runs_are_numbered(config):
    for name in ("mine", "mine-2", "mine-3"):
        folder = chosen(config)
        assert folder == Path("runs") / name
        assert not folder.exists()  # a start that fails leaves nothing
        take(folder)


def test_resume_auto_takes_the_newest(config):
    config.train.resume = "auto"
    assert chosen(config) == Path("runs/mine")
    take(Path("runs/mine"))
    take(Path("runs/mine-2"))
    assert chosen(config) == Path("runs/mine-2")


def test_resume_from_a_checkpoint_starts_a_folder_of_its_own(config):
    config.train.resume = str(take(Path("runs/mine")))
    assert chosen(config) == Path("runs/mine-2")


def test_a_named_folder(config, tmp_path):
    config.train.out = str(tmp_path / "deep/here")
    assert chosen(config) == tmp_path / "deep/here"
    take(tmp_path / "deep/here")
    with pytest.raises(ValueError, match=r"holds an earlier run.*train\.resume=auto"):
        chosen(config)
    config.train.resume = "auto"
    assert chosen(config) == tmp_path / "deep/here"


def test_only_auto_and_its_own_checkpoints_go_on_in_a_named_folder(config, tmp_path):
    mine, other = take(tmp_path / "mine"), take(tmp_path / "other")
    config.train.out = str(mine)
    for resume in ("auto", str(mine), str(mine / "checkpoints" / "step_00000002")):
        config.train.resume = resume
        assert chosen(config) == mine
    for resume in (str(other), str(tmp_path / "mine-2"), str(tmp_path)):
        config.train.resume = resume
        with pytest.raises(ValueError, match="holds an earlier run"):
            chosen(config)
    config.train.out = str(tmp_path / "new")
    assert chosen(config) == tmp_path / "new"


def test_a_folder_that_cannot_be_made(config, tmp_path):
    (tmp_path / "file").write_text("")
    config.train.out = str(tmp_path / "file/run")
    with pytest.raises(ValueError, match=r"file/run cannot be made: .*another train\.out"):
        chosen(config)


def test_a_folder_of_other_files_is_left_alone(config, tmp_path):
    mine = tmp_path / "mine"
    config.train.out = str(mine)
    (mine / "checkpoints").mkdir(parents=True)
    assert chosen(config) == mine  # of a start that was killed
    (mine / "thesis.tex").write_text("")
    for resume in (None, "auto"):
        config.train.resume = resume
        with pytest.raises(ValueError, match=r"train\.out=.*mine is not empty and holds no run \(there is thesis\.tex"):
            chosen(config)
    (mine / "thesis.tex").unlink()
    (mine / "checkpoints").rmdir()
    assert chosen(config) == mine
    assert mine.is_dir()  # it was there before


HOLDER = """
import sys, time
from silc.config import Config, TrainConfig
from silc.distributed import World
from silc.train import run_folder
out = sys.argv[1] if len(sys.argv) > 1 else None
print(run_folder.choose(Config(preset="mine", train=TrainConfig(out=out)), World(0, 1, None)).path, flush=True)
time.sleep(120)
"""


@pytest.fixture
def holder(tmp_path) -> Iterator[list[subprocess.Popen]]:
    """Processes that each have chosen a folder: hold(words)."""
    started: list[subprocess.Popen] = []

    def hold(*words: str) -> tuple[subprocess.Popen, str]:
        command = [sys.executable, "-c", HOLDER, *words]
        env = environment(PYTHONPATH=checkout())
        process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process, process.stdout.readline().strip()

    yield hold
    for process in started:
        process.kill()
        process.communicate()


def test_two_starts_get_two_folders_and_two_into_one_get_one_refusal(config, holder, tmp_path):
    """Both before the first has written a file of its run; and what a killed one leaves keeps no one out."""
    first, path = holder()
    assert path == "runs/mine"
    assert chosen(config) == Path("runs/mine-2")
    config.train.out = "runs/mine"
    for resume in (None, "auto"):
        config.train.resume = resume
        with pytest.raises(ValueError, match=rf"runs/mine: process {first.pid} of {socket.gethostname()}; wait"):
            chosen(config)
    first.kill()
    first.wait()
    assert Path("runs/mine", LOCK).exists()
    assert chosen(config) == Path("runs/mine")
    assert not Path("runs/mine", LOCK).exists()


def test_the_newest_run_is_not_continued_twice(config, holder, tmp_path):
    take(Path("runs/mine"))
    holder(str(tmp_path / "runs/mine-2"))
    take(Path("runs/mine-2"))
    config.train.resume = "auto"
    with pytest.raises(ValueError, match="another run writes to runs/mine-2"):
        chosen(config)


def test_a_fork_does_not_hold_the_lock_of_its_parent(tmp_path):
    """As a data worker that outlives a killed rank for a moment."""
    mine = Lock(tmp_path)
    ready, end = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.write(ready[1], b"x")
        os.read(end[0], 1)
        os._exit(0)
    try:
        os.read(ready[0], 1)
        os.close(mine._descriptor)  # as the system does for a process that ends
        lock._held.discard(mine._descriptor)
        again = Lock(tmp_path, patient=False)
    finally:
        os.write(end[1], b"x")
        os.waitpid(child, 0)
    again.release()
    assert not (tmp_path / LOCK).exists()


def test_a_lock_that_was_removed_and_taken_by_another_is_not_there(tmp_path):
    mine = Lock(tmp_path)
    assert mine.there()
    with pytest.raises(Held, match=f"process {os.getpid()} of "):
        Lock(tmp_path)
    (tmp_path / LOCK).unlink()
    other = Lock(tmp_path)
    assert (mine.there(), other.there()) == (False, True)
    mine.release()
    assert (tmp_path / LOCK).exists()  # it is the other's


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"host": 1, "pid": []}', "\0" * 9000, "[" * 4000])
def test_a_lock_file_may_hold_anything(tmp_path, text):
    mine = Lock(tmp_path)
    (tmp_path / LOCK).write_text(text)
    with pytest.raises(Held, match="a process that has not written its name yet"):
        Lock(tmp_path)
    mine.release()


def test_a_file_system_without_locks_is_named_once(tmp_path, monkeypatch, capsys):
    def no_locks(*_words: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", no_locks)
    mine = Lock(tmp_path)
    assert capsys.readouterr().out.count("a file system without locks (No locks available)") == 1
    assert mine.there()
    mine.release()


@pytest.mark.parametrize(
    ("name", "said"),
    [("checkpoints", "is not a folder"), ("metrics.jsonl", "is not a file"), ("checkpoints/latest", "is not a file")],
)
def test_what_stands_in_the_way_is_named(config, tmp_path, name, said):
    config.train.out, config.train.resume = str(take(tmp_path / "mine")), "auto"
    path = tmp_path / "mine" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("") if said == "is not a folder" else path.mkdir()
    with pytest.raises(ValueError, match=f"{name} {said}, as which a run writes it: move it"):
        chosen(config)


def test_a_start_that_fails_late_takes_its_files_with_it(config, tmp_path):
    config.train.out = str(tmp_path / "deep/mine")
    folder = run_folder.choose(config, WORLD)
    for name in ("config.yaml", "deepspeed.json", "metrics.jsonl"):
        (folder.path / name).touch()
    (folder.path / "tensorboard").mkdir()
    (folder.path / "tensorboard" / "events").touch()
    folder.leave()
    assert not (tmp_path / "deep").exists()


def test_a_folder_with_a_trained_step_is_not_given_up(config, tmp_path):
    config.train.out = str(tmp_path / "mine")
    folder = run_folder.choose(config, WORLD)
    (folder.path / "config.yaml").touch()
    (folder.path / "metrics.jsonl").write_text("{}\n")
    folder.leave()
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["config.yaml", "metrics.jsonl"]


@pytest.fixture
def running(config, tmp_path) -> tuple[RunFolder, Config, SimpleNamespace]:
    """The folder of a run that trains, its configuration, and what stands for its state."""
    config.train.out, config.train.tensorboard = str(tmp_path / "mine"), False
    folder = run_folder.choose(config, WORLD)
    state = SimpleNamespace(world=WORLD, engine=SimpleNamespace(json={}), counters=SimpleNamespace(step=3, position=24))
    return folder, config, state


def remove(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def test_a_folder_that_was_removed_is_made_again(running, capsys):
    folder, config, state = running
    log = run_folder.open_folder(config, state, folder.path)
    assert folder.keep(config, state, log) is log
    log.write(1, {"loss": 1.0})
    remove(folder.path)
    new = folder.keep(config, state, log)
    assert "mine was removed while the run goes on: it is made again" in capsys.readouterr().out
    assert sorted(path.name for path in folder.path.iterdir()) == [
        LOCK, "config.yaml", "deepspeed.json", "metrics.jsonl",
    ]  # fmt: skip
    new.write(4, {"loss": 1.0})
    assert json.loads((folder.path / "metrics.jsonl").read_text())["step"] == 4
    assert folder.keep(config, state, new) is new
    with pytest.raises(Held):
        Lock(folder.path)
    new.close()


def test_a_folder_that_another_run_has_taken_is_left_to_it(running):
    folder, config, state = running
    log = run_folder.open_folder(config, state, folder.path)
    remove(folder.path)
    other = run_folder.choose(config, WORLD)
    with pytest.raises(ValueError, match=r"was removed, and cannot be made again: another run writes to"):
        folder.keep(config, state, log)
    theirs = run_folder.open_folder(config, state, other.path)
    theirs.write(1, {"loss": 1.0})
    theirs.close()
    other.leave()
    with pytest.raises(ValueError, match="was removed, and another run has been there since"):
        folder.keep(config, state, log)
    log.close()


def test_the_lock_of_another_machine_is_waited_for_since_that_may_be_dead(tmp_path, monkeypatch, capsys):
    """A file server frees it after a while; where it does not, the message says what to remove."""
    monkeypatch.setattr(lock, "PATIENCE", 0.1)
    monkeypatch.setattr(lock, "LEASE", 0.3)
    mine = Lock(tmp_path)
    (tmp_path / LOCK).write_text(json.dumps({"host": "node7", "pid": 12, "started": 5}))
    with pytest.raises(Held, match=rf"process 12 of node7; .*; if that machine is dead, remove {tmp_path}/{LOCK}"):
        Lock(tmp_path)
    assert f"{tmp_path} is locked by process 12 of node7: waiting" in capsys.readouterr().out
    with pytest.raises(Held):
        Lock(tmp_path, patient=False)
    assert capsys.readouterr().out == ""
    mine.release()
    Lock(tmp_path).release()
