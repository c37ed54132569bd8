"""Which folder a run writes to: a new run never writes over an old one."""

from __future__ import annotations

from pathlib import Path

import pytest

from silc.config import Config
from silc.train.run import _run_folder


@pytest.fixture
def config(tmp_path, monkeypatch) -> Config:
    monkeypatch.chdir(tmp_path)
    return Config(preset="mine")


def take(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text("")
    return folder


def test_unnamed_runs_are_numbered(config):
    for name in ("mine", "mine-2", "mine-3"):
        folder = _run_folder(config)
        assert folder == Path("runs") / name
        assert not folder.exists()  # a start that fails leaves nothing
        take(folder)


def test_resume_auto_takes_the_newest(config):
    config.train.resume = "auto"
    assert _run_folder(config) == Path("runs/mine")
    take(Path("runs/mine"))
    take(Path("runs/mine-2"))
    assert _run_folder(config) == Path("runs/mine-2")


def test_resume_from_a_checkpoint_starts_a_folder_of_its_own(config):
    config.train.resume = str(take(Path("runs/mine")))
    assert _run_folder(config) == Path("runs/mine-2")


def test_a_named_folder(config, tmp_path):
    config.train.out = str(tmp_path / "deep/here")
    assert _run_folder(config) == tmp_path / "deep/here"
    take(tmp_path / "deep/here")
    with pytest.raises(ValueError, match=r"holds an earlier run.*train\.resume=auto"):
        _run_folder(config)
    config.train.resume = "auto"
    assert _run_folder(config) == tmp_path / "deep/here"


def test_only_auto_and_its_own_checkpoints_go_on_in_a_named_folder(config, tmp_path):
    mine, other = take(tmp_path / "mine"), take(tmp_path / "other")
    config.train.out = str(mine)
    for resume in ("auto", str(mine), str(mine / "checkpoints" / "step_00000002")):
        config.train.resume = resume
        assert _run_folder(config) == mine
    for resume in (str(other), str(tmp_path / "mine-2"), str(tmp_path)):
        config.train.resume = resume
        with pytest.raises(ValueError, match="holds an earlier run"):
            _run_folder(config)
    config.train.out = str(tmp_path / "new")
    assert _run_folder(config) == tmp_path / "new"


def test_a_folder_that_cannot_be_made(config, tmp_path):
    (tmp_path / "file").write_text("")
    config.train.out = str(tmp_path / "file/run")
    with pytest.raises(ValueError, match=r"file/run cannot be made: .*another train\.out"):
        _run_folder(config)


def test_a_folder_of_other_files_is_left_alone(config, tmp_path):
    mine = tmp_path / "mine"
    config.train.out = str(mine)
    (mine / "checkpoints").mkdir(parents=True)
    assert _run_folder(config) == mine  # of a start that was killed
    (mine / "thesis.tex").write_text("")
    for resume in (None, "auto"):
        config.train.resume = resume
        with pytest.raises(ValueError, match=r"train\.out=.*mine is not empty and holds no run \(there is thesis\.tex"):
            _run_folder(config)
    (mine / "thesis.tex").unlink()
    (mine / "checkpoints").rmdir()
    assert _run_folder(config) == mine
