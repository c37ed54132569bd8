"""The benchmark of checkpoints runs, gates, and saves its table."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_both_ways_are_gated_and_timed():
    script = str(ROOT / "benchmarks" / "save_bench.py")
    command = [sys.executable, script, "--preset", "sample", "--batch", "4", "--rounds", "1"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(
        [*command, "--batch", "4", "--rounds", "1"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "between two steps" in done.stdout
    assert "beside the steps" in done.stdout
