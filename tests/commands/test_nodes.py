"""Runs on several machines, which are namespaces of this one (tests/machines.py), by the launchers that people use."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from tests.machines import missing
from tests.soak import nodes, slurm

from .conftest import TRAIN, environment

REQUIRED = "SILC_NODES_REQUIRED"  # where it is set nothing is skipped


def needs(lacking: list[str]) -> None:
    """Skip a test where something is missing; fail where it may not be."""
    if lacking:
        assert REQUIRED not in os.environ, lacking
        pytest.skip(f"needs {', '.join(lacking)}")


def test_a_machine_that_is_killed_is_named_and_the_run_goes_on_without_it(tmp_path):
    """By `silc train --hostfile`, over ssh and pdsh, two machines of two ranks."""
    needs(missing())
    table = nodes.check(tmp_path, quick=True)
    assert table.rows == 2
    assert not table.failures  # with what was printed


def test_a_job_of_slurm_is_stopped_queued_again_resumed_and_finished(tmp_path, monkeypatch):
    """launch/slurm.sh under a SLURM of two machines, two ranks on each."""
    needs([*missing(), *(name for name in slurm.PROGRAMS if shutil.which(name) is None)])
    slurm.prepare(monkeypatch.setenv)
    table = slurm.check(tmp_path, quick=True)
    assert table.rows == 2
    assert not table.failures


def test_mpirun_starts_one_run(data, tmp_path):
    needs([] if shutil.which("mpirun") else ["mpirun"])
    words = ["mpirun", "-n", "2", "--oversubscribe", *(["--allow-run-as-root"] if os.geteuid() == 0 else [])]
    words += [sys.executable, str(TRAIN), "--preset", str(data / "tiny.yaml"), f"data.shards=[{data}/train]"]
    words += [f"train.out={tmp_path}/run", "data.max_skipped=0.9", "eval.after=[]", "train.steps=3"]
    done = subprocess.run(words, cwd=data, env=environment(), text=True, capture_output=True, timeout=300, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert said.count("= 2 ranks x") == 1
    assert said.count("trained 3 steps") == 1
