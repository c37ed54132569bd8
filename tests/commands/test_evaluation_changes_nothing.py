"""Training with evaluations on the way, of all tasks, and without any: the same trajectory to the last bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from silc.config import TASKS
from silc.train import checkpoint

from .conftest import Run, environment


@pytest.fixture(scope="session")
def both(once, data) -> dict[str, Any]:
    """Two runs in one process: one that evaluates every two steps, one that never does."""

    def make(folder: Path) -> dict[str, Any]:
        for split in ("training", "validation"):
            for kind in ("images", "annotations"):
                (folder / "ade" / kind / split).mkdir(parents=True)
            for number in range(4):
                values = np.kron(np.arange(1, 5).reshape(2, 2), np.ones((8, 8))).astype(np.uint8)
                Image.fromarray(np.stack([50 * values] * 3, -1)).save(folder / f"ade/images/{split}/{number}.jpg")
                Image.fromarray(values).save(folder / f"ade/annotations/{split}/{number}.png")
        common = ["--preset", str(data / "tiny.yaml"), f"data.shards=[{data}/train]", "data.workers=0"]
        common += ["train.save_every=0", "data.max_skipped=0.9"]
        looks = ["eval.every=2", f"eval.during=[{','.join(TASKS)}]", f"eval.segmentation=ade20k:{folder}/ade"]
        looks += ["eval.probe_steps=2", "eval.decoder_steps=2", "eval.short_side=16", "eval.shots=[1]"]
        calls = [
            [*common, *looks, f"train.out={folder}/looking"],
            [*common, "eval.after=[]", "eval.contact_sheet=false", "eval.report=false", f"train.out={folder}/blind"],
        ]
        command = [sys.executable, str(Path(__file__).with_name("worker_calls.py")), json.dumps(calls)]
        done = subprocess.run(
            [*command, str(folder / "results.json")], cwd=data, env=environment(), capture_output=True, timeout=500
        )
        assert done.returncode == 0, done.stderr
        looking, blind = json.loads((folder / "results.json").read_text())
        return {"looking": looking, "blind": blind, "folder": str(folder)}

    return once("looking_and_blind", make)


def test_both_runs_end_well_and_one_of_them_looked(both):
    for name in ("looking", "blind"):
        assert both[name]["status"] == 0, both[name]["err"]
    looked = Run(0, "", f"{both['folder']}/looking")
    for task in ("zeroshot_classification/student/top1", "linear_segmentation/teacher/miou"):
        assert [row["step"] for row in looked.rows(f"eval/{task}")] == [2, 4, 6, 8]
    blind = Run(0, "", f"{both['folder']}/blind")
    assert not blind.path("report.html").exists()
    assert not blind.path("held_out.png").exists()
    assert looked.path("report.html").exists()


def test_the_trajectory_is_the_same_to_the_last_bit(both):
    runs = [Run(0, "", f"{both['folder']}/{name}") for name in ("looking", "blind")]
    timed = {"time", "samples_per_second", "step_seconds", "waiting_for_data", "memory_gb", "read_gb", "read_over_used"}
    rows = [[{k: v for k, v in row.items() if k not in timed} for row in run.rows()] for run in runs]
    assert rows[0] == rows[1]
    for name in ("student", "teacher"):
        ours, theirs = (checkpoint.load_weights(checkpoint.find(run.folder), name) for run in runs)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
