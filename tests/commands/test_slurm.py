"""launch/slurm.sh with stand-ins for SLURM's programs; tests/commands/test_nodes.py runs it under SLURM itself."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from .conftest import ROOT

STANDS_FOR = {
    "srun": 'echo "$@" > srun.words; while [[ "$1" == --* ]]; do shift; done; exec "$@"',
    "squeue": "cat state",
    "scontrol": 'echo "$@" > scontrol.words; kill -- -$PPID',  # SLURM ends the job's processes
    "python": 'exec python3 ./rank "$@"',
}
RANK = """
import pathlib, signal, sys
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, lambda number, _: sys.exit(75))
pathlib.Path("ready").touch()
signal.pause()
"""


@pytest.fixture
def start(tmp_path):
    """start(state, **environment): the script as a job of which squeue says `state`; its rank runs."""
    (tmp_path / "bin").mkdir()
    for name, text in STANDS_FOR.items():
        path = tmp_path / "bin" / name
        path.write_text(f"#!/usr/bin/env bash\n{text}\n")
        path.chmod(0o755)
    (tmp_path / "rank").write_text(RANK)
    jobs = []

    def job(state: str, **more: str) -> subprocess.Popen:
        (tmp_path / "state").write_text(state)
        env = dict(os.environ) | {"SLURM_JOB_ID": "7", "VENV": str(tmp_path)} | more
        words = ["bash", str(ROOT / "launch/slurm.sh"), "a=b c"]
        jobs.append(subprocess.Popen(words, cwd=tmp_path, env=env, start_new_session=True))
        ends = time.monotonic() + 60
        while not (tmp_path / "ready").exists():
            assert jobs[-1].poll() is None
            assert time.monotonic() < ends
            time.sleep(0.05)
        return jobs[-1]

    yield job
    for each in jobs:
        each.kill()
        each.wait()


def words_of(folder: Path, name: str) -> str:
    """What a stand-in was called with; empty if it was not."""
    path = folder / f"{name}.words"
    return path.read_text().strip() if path.exists() else ""


def test_a_job_that_was_asked_to_stop_is_queued_again(start, tmp_path):
    job = start("RUNNING", SLURM_CPUS_PER_TASK="12")
    job.send_signal(signal.SIGTERM)  # to all processes of a job; this shell waits for those that save
    time.sleep(0.5)
    assert job.poll() is None
    job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=60) == -signal.SIGTERM
    assert words_of(tmp_path, "scontrol") == "requeue 7"
    words = words_of(tmp_path, "srun")
    assert words == "--kill-on-bad-exit=0 --wait=300 --cpus-per-task=12 python launch/train.py a=b c"


def test_a_job_that_was_cancelled_is_not_and_its_status_comes_back(start, tmp_path):
    job = start("COMPLETING")
    job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=60) == 75
    assert words_of(tmp_path, "scontrol") == ""
    assert "--cpus-per-task" not in words_of(tmp_path, "srun")  # SLURM has not set it


def test_a_part_after_the_first_resumes(start, tmp_path):
    job = start("COMPLETING", SLURM_RESTART_COUNT="1")
    assert words_of(tmp_path, "srun").endswith("launch/train.py a=b c train.resume=auto")
    job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=60) == 75
