"""Host time of the ops: the command, what it counts, and two checkouts against each other."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import host_bench
from benchmarks.kernels.host_cases import HostCase
from benchmarks.kernels.host_time import against, measured

ROOT = Path(__file__).parents[2]


def bench(*arguments: str) -> str:
    command = [sys.executable, "benchmarks/host_bench.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_case_prints_and_saves_a_row(tmp_path):
    out = bench("--only", "photometric", "--calls", "3", "--save", str(tmp_path))
    (written,) = tmp_path.glob("host_*.csv")
    (row,) = csv.DictReader(written.open())
    assert row["op"] in out
    assert int(row["launches"]) > 0
    assert int(row["aten"]) >= int(row["operators"]) > 0
    assert float(row["forward_us"]) > 0
    assert row["both_us"] == "nan"  # bytes have no gradient


def test_two_checkouts_stand_in_one_table():
    out = bench("--only", "distill_loss", "--calls", "3", "--rounds", "1", "--against", str(ROOT))
    (line,) = [line for line in out.splitlines() if line.startswith("distill_loss")]
    assert line.count("->") == 4
    with pytest.raises(ValueError, match="no kernels/silc_kernels there"):
        next(against(Path("/"), [], 1))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "nosuch"], "--only nosuch: no case's op and shape contain it; there are distill_loss, "),
        (["--only", "nosuch", "--against", str(ROOT)], "--only nosuch: no case's op and shape contain it"),
        (["--against", "/nonexistent"], "--against: /nonexistent: no kernels/silc_kernels there; give the root"),
        (["--against", str(ROOT), "--save"], "--against prints alone"),
        (["--calls", "0"], "--calls: 0 is no whole number from 1 on"),
        (["--rounds", "-1"], "--rounds: -1 is no whole number from 1 on"),
    ],
)
def test_a_run_that_would_do_nothing_is_refused(arguments, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        host_bench.main(arguments)
    assert words in capsys.readouterr().err


def test_counts_are_of_operators_within_others_and_without():
    case = HostCase("sum", "", lambda device: lambda: torch.zeros(4, device=device), differentiable=False)
    (row,) = measured([case], 1)
    assert (row.launches, row.aten, row.operators) == (0, 3, 1)  # aten::zeros calls aten::empty and aten::zero_
