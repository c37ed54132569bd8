"""The device tests in a dry run: what they launch is compiled and checked, and no other error is hidden."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEVICE = ROOT / "tests" / "kernels" / "device"
PLANTED = """
import pytest
import torch
from silc_kernels import contrastive_loss

HALF = torch.zeros(8, 16, dtype=torch.bfloat16)

def launch():
    return contrastive_loss(HALF, HALF, torch.ones(1))

def test_values_are_garbage(device):
    assert float(launch()) == 12345

def test_and_may_be_refused_or_not(device):
    with pytest.raises(RuntimeError):
        launch()

def test_refused(device):
    contrastive_loss(HALF.double(), HALF.double(), torch.ones(1).double())

def test_wrong_without_a_launch(device):
    assert 1 + 1 == 3

def test_an_error_behind_a_launch(device):
    launch()
    HALF.no_such_method()

def test_an_error_of_an_op(device):
    launch()
    contrastive_loss(HALF, HALF[:3], torch.ones(1))
"""


def dry(*arguments: str) -> subprocess.CompletedProcess[str]:
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--import-mode=importlib"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "TRITON_INTERPRET"))}
    environment = kept | {"SILC_KERNELS_DRY": "90", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", *options, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("file", "tests", "launched"),
    [
        ("photometry/test_photometric.py", "", 23),
        ("distill/test_distill_bounded.py", "form_is_chosen or rows_of_zeros", 14),
        ("crops/test_crop_resize.py", "", 9),
    ],
)
def test_launches_of_the_device_tests_are_sound(file, tests, launched):
    done = dry(str(DEVICE / file), "-k", tests)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    (found,) = re.findall(r"(\d+) tests launched kernels", done.stdout)
    assert int(found) >= launched, done.stdout[-2000:]


def test_what_launches_nothing_or_fails_otherwise_is_not_hidden(tmp_path):
    (tmp_path / "conftest.py").write_text("from tests.kernels.device.conftest import *\n")
    (tmp_path / "test_planted.py").write_text(PLANTED)
    done = dry("--rootdir", str(tmp_path), "-o", f"pythonpath={ROOT} {ROOT / 'kernels'}", str(tmp_path))
    failed = set(re.findall(r"^FAILED \S*::(\w+)", done.stdout, re.MULTILINE))
    assert failed == {"test_wrong_without_a_launch", "test_an_error_behind_a_launch", "test_an_error_of_an_op"}, (
        done.stdout
    )
    assert "4 tests launched kernels, 2 none:" in done.stdout
    assert "test_planted.py::test_refused" in done.stdout
