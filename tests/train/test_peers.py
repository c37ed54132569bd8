"""A rank that is gone is named by the others, and one for which they wait; no one waits for ever."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from silc.train.peers import is_of_connection

from .peers_worker import HAPPENS, LIMIT, RANKS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def jobs() -> dict[str, dict]:
    """What the ranks of each job of peers_worker ended with, all run at once."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])}
    env |= {"TORCH_CPP_LOG_LEVEL": "ERROR"}  # as silc's commands set it
    command = [sys.executable, "-m", "tests.train.peers_worker", *HAPPENS]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=3 * LIMIT, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def last_lines(job: dict) -> dict[int, str]:
    """What each rank that ended with status 1 said last."""
    return {rank: said.splitlines()[-1] for rank, said in enumerate(job["said"]) if job["statuses"][rank] == 1}


@pytest.mark.parametrize("name", ["nothing", "suspended"])
def test_a_job_whose_ranks_all_live_ends_in_silence(jobs, name):
    """Also one that was stopped as a whole for longer than a rank may be silent, as SLURM suspends a job."""
    job = jobs[name]
    assert job["statuses"] == [0] * RANKS
    assert not [line for said in job["said"] for line in said.splitlines() if "[Gloo]" not in line]


@pytest.mark.parametrize(("name", "rank"), [("stopped", 1), ("stopped_0", 0)])
def test_a_rank_that_stops_is_named_by_all_others_and_ends_the_job(jobs, name, rank):
    """SIGSTOP: its connections stay, so that no collective throws."""
    job = jobs[name]
    assert [status for other, status in enumerate(job["statuses"]) if other != rank] == [1, 1]
    for said in last_lines(job).values():
        assert said.startswith(f"silc train: rank {rank} (host ")
        assert re.search(
            rf", pid {job['pids'][rank]}\) has not answered for \d+ s, last at step [12], training\. ", said
        )
        assert "train.resume=auto continues from the last checkpoint" in said


@pytest.mark.parametrize(("name", "rank"), [("killed", 2), ("killed_0", 0)])
def test_a_rank_that_is_killed_ends_the_job_in_words(jobs, name, rank):
    job = jobs[name]
    assert sorted(job["statuses"]) == [-9, 1, 1]
    named = rf"rank {rank} \(host .*, pid {job['pids'][rank]}\) has ended, last at step [12], training\. "
    assert any(re.search(named, text) for text in last_lines(job).values())
    assert not [text for text in job["said"] if "Traceback" in text or "frame #" in text]


def test_a_slow_rank_is_named_once_and_waited_for(jobs):
    job = jobs["slow"]
    assert job["statuses"] == [0] * RANKS
    lines = [line for line in job["said"][0].splitlines() if "slow" in line]
    assert len(lines) == 1
    assert lines[0].startswith("rank 1 (host ")
    assert f"pid {job['pids'][1]}) is slow: 2 ranks wait for it since " in lines[0]
    assert "it is reading data for " in lines[0]
    assert lines[0].endswith(" at step 2")


@pytest.mark.parametrize("name", ["failed", "mistake"])
def test_an_error_of_a_rank_is_its_own_and_the_others_name_the_rank(jobs, name):
    job = jobs[name]
    assert job["statuses"] == [1, 70, 1]
    kind = "KeyError" if name == "failed" else "RuntimeError"
    assert job["said"][1].splitlines()[-1] == f"escaped: {kind}"
    for said in last_lines(job).values():
        assert f"rank 1 (host {os.uname().nodename[:60]}, pid {job['pids'][1]}) has ended with an error" in said


def test_only_errors_of_the_connection_are_put_into_words():
    gloo = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:32741"
    assert is_of_connection(RuntimeError(gloo))
    assert is_of_connection(dist.DistBackendError("NCCL error"))
    assert is_of_connection(dist.DistNetworkError("Broken pipe"))
    for other in (RuntimeError("CUDA out of memory"), RuntimeError("gloo"), OSError(gloo), ConnectionError("refused")):
        assert not is_of_connection(other)
