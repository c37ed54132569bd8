"""The trainer on the Triton kernels, under the interpreter: the same losses and weights as on the reference ops."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.train import cases

ROOT = Path(__file__).resolve().parents[2]
LOSSES = ("loss", "loss_contrastive", "loss_distill")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What triton_runs.py left. The interpreter is chosen when Triton is imported: a process of its own."""
    folder = tmp_path_factory.mktemp("triton")
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
    }
    script = Path(__file__).with_name("triton_runs.py")
    result = subprocess.run([sys.executable, script, folder], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return folder


@pytest.mark.parametrize("stage", cases.STAGES)
def test_trains_as_on_the_reference_ops(folder, stage):
    reference, triton = (torch.load(folder / f"{name}-{stage}.pt") for name in ("torch", "triton"))
    for ours, theirs in zip(triton["rows"], reference["rows"], strict=True):
        for name in LOSSES:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4), name
    assert triton["state"].keys() == reference["state"].keys()
    for name, value in triton["state"].items():
        expected = reference["state"][name]
        error = (value.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-12)
        assert error < 1e-4, name
