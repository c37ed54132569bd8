"""A run that is asked to stop ends at a step, on all ranks together, with a checkpoint."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from silc.train import checkpoint

from .conftest import checkout, environment, free_port


def rank_below(launcher: subprocess.Popen, rank: int) -> psutil.Process:
    """A training process below a launcher; its data workers, forks of it, have the same command line."""
    below = psutil.Process(launcher.pid).children(recursive=True)
    named = {process.pid: process for process in below if f"--local_rank={rank}" in process.cmdline()}
    (found,) = [process for process in named.values() if process.ppid() not in named]
    return found


def test_a_signal_to_one_rank_ends_both_with_a_checkpoint(data, tmp_path):
    words = [f"data.shards=[{data}/train]", f"train.out={tmp_path}/run", "train.steps=100000", "train.save_every=0"]
    words += ["data.max_skipped=0.9", "train.tensorboard=false"]
    command = [sys.executable, "-m", "silc", "train", "--num_gpus", "2", "--master_port", str(free_port())]
    command += ["--preset", str(data / "tiny.yaml"), *words]
    log = tmp_path / "output"
    env = environment(PYTHONPATH=checkout())
    with log.open("w") as output:
        launcher = subprocess.Popen(command, cwd=data, env=env, stdout=output, stderr=subprocess.STDOUT)
    try:
        ends = time.monotonic() + 120
        while "step 4/" not in log.read_text():
            assert launcher.poll() is None, log.read_text()
            assert time.monotonic() < ends
            time.sleep(0.5)
        # The rank that neither prints nor writes the manifest.
        rank_below(launcher, 1).send_signal(signal.SIGUSR1)
        assert launcher.wait(timeout=90) == 75
    finally:
        if launcher.poll() is None:
            for process in [*psutil.Process(launcher.pid).children(recursive=True), launcher]:
                process.kill()
    said = log.read_text()
    assert said.splitlines()[-1].startswith("stopped by SIGUSR1")  # the launcher adds nothing
    assert "Traceback" not in said
    assert said.count("stopped by SIGUSR1 at step") == 1
    path = checkpoint.find(tmp_path / "run")
    step = json.loads((path / "manifest.json").read_text())["step"]
    assert f"at step {step} of 100000; checkpoint {path}" in said
    assert Path(path).name == f"step_{step:08d}"
    assert not list(path.parent.glob("*.tmp"))
