"""Twenty kills, of one rank or of all, in the start, in steps and in saves: the end is as if there had been none.

The long form, with two hundred, is tests/soak/kills.py; the ranks are forks of a process that has imported everything.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("kind", ["1,3", "2,1"], ids=["one rank, stage 3", "two ranks, stage 1"])
def test_kills_lose_nothing(kind):
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    command = [sys.executable, "-m", "tests.soak.kills", "--kills", "10", "--kinds", kind, "--seed", "5"]
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=540, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "10 kills in" in done.stdout
    assert "all promises held" in done.stdout
