"""Checkpoints are whole or absent: what the reader accepts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from silc.train import checkpoint

CPU = torch.device("cpu")


def write(run: Path, step: int, *, manifest: bool = True, suffix: str = "") -> Path:
    path = run / "checkpoints" / f"step_{step:08d}{suffix}"
    path.mkdir(parents=True)
    torch.save({"format": checkpoint.FORMAT, "world_size": 2, "step": step}, path / "trainer.pt")
    if manifest:
        files = {"trainer.pt": (path / "trainer.pt").stat().st_size}
        (path / "manifest.json").write_text(json.dumps({"format": checkpoint.FORMAT, "step": step, "files": files}))
    return path


def test_the_newest_whole_one_is_found_and_drafts_are_not(tmp_path):
    write(tmp_path, 5)
    newest = write(tmp_path, 10)
    write(tmp_path, 15, suffix=".tmp")
    write(tmp_path, 20, manifest=False)
    assert checkpoint.find(tmp_path) == newest
    assert checkpoint.newest(tmp_path) == newest


def test_a_file_of_another_size_is_refused_by_name(tmp_path):
    path = write(tmp_path, 5)
    with (path / "trainer.pt").open("r+b") as file:
        file.truncate(10)
    with pytest.raises(ValueError, match=r"trainer\.pt"):
        checkpoint.find(path)


def test_nothing_to_resume_from_is_said(tmp_path):
    with pytest.raises(ValueError, match="no whole checkpoint"):
        checkpoint.find(tmp_path)
    assert checkpoint.newest(tmp_path) is None


def test_another_number_of_ranks_is_refused(tmp_path):
    path = write(tmp_path, 5)
    assert checkpoint.load_trainer(path, 2, CPU)["step"] == 5
    with pytest.raises(ValueError, match="2 ranks"):
        checkpoint.load_trainer(path, 4, CPU)


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(ValueError, match="teacher"):
        checkpoint.load_weights(write(tmp_path, 5), "teacher")
