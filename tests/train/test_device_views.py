"""A run whose views are finished on the device is the run whose views are made on the host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOSSES = ("loss", "loss_contrastive", "loss_distill", "grad_norm")
SCRIPT = """
import json, sys, silc
small = {
    "model": {"vision": {"image_size": 16, "patch_size": 8, "width": 32, "depth": 1, "heads": 2},
              "text": {"context_length": 8, "width": 32, "depth": 1, "heads": 2},
              "head": {"prototypes": 64, "hidden": 32, "bottleneck": 16}},
    "optim": {"warmup_steps": 1},
    "data": {"sample_scenes": 64, "workers": 1},
    "eval": {"after": [], "report": False},
}
train = {"steps": 2, "global_batch": 8, "micro_batch": 4, "log_every": 1, "tensorboard": False}
folder, given = sys.argv[1:]
for name, views in json.loads(given).items():
    sizes = {"global_size": 16, "local_size": 8, "n_local": 2}
    silc.train("sample", **small, train=train | {"out": f"{folder}/{name}"}, views=sizes | views)
"""
RUNS = {
    "host": {},
    "crops": {"crops_on": "device"},
    "distorted": {"photometric": True},
    "list": {"photometric": True, "device": "device"},
    "both": {"photometric": True, "crops_on": "device"},
}


@pytest.fixture(scope="module")
def losses(tmp_path_factory) -> dict[str, list[dict[str, float]]]:
    """Of two steps of each run."""
    folder = tmp_path_factory.mktemp("runs")
    path = f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    environment |= {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), json.dumps(RUNS)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = {}
    for name in RUNS:
        rows = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
        found[name] = [{key: row[key] for key in LOSSES} for row in rows if "loss" in row]
        assert len(found[name]) == 2
    return found


def test_crops_cut_on_the_device_train_the_same_to_the_last_bit(losses):
    assert losses["crops"] == losses["host"]
    assert losses["both"] == losses["list"]


def test_the_photometric_list_on_the_device_trains_as_on_the_host(losses):
    """A level of 255 more or less in a pixel of a thousand."""
    for mine, theirs in zip(losses["list"], losses["distorted"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3)
    assert losses["distorted"][0]["loss"] != pytest.approx(losses["host"][0]["loss"], rel=1e-3)
