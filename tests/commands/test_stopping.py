"""A run that is asked to stop ends at a step, on all ranks together, with a checkpoint. All moments, and all processes
that may be asked, are in tests/soak/signals.py.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from silc.train import checkpoint
from tests.soak.signals import Case, broken, play
from tests.soak.slow import ROOT

from .conftest import checkout, environment, free_port, run_train


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


def test_a_signal_to_deepspeeds_launcher_ends_an_evaluation_on_the_way_and_saves(data, tmp_path):
    """The launcher itself dies of it: the ranks see that it is gone."""
    case = Case("TERM", "deepspeed", "evaluation")
    seen = play(case, data, tmp_path)
    assert broken(case, seen) == []
    assert (seen.status, seen.saved) == (-signal.SIGTERM, 5)
    assert "deepspeed.launcher.runner (process" in seen.output
    assert "stopped by the end of its launcher at step 5 of 8" in seen.output
    assert "evaluation at step" not in seen.output


def test_a_signal_in_the_last_evaluation_costs_that_alone(data, tmp_path):
    case = Case("USR1", "silc", "last-evaluation")
    seen = play(case, data, tmp_path)
    assert broken(case, seen) == []
    assert (seen.status, seen.saved) == (75, 8)
    assert "stopped by SIGUSR1 after step 8 of 8; the run is trained, saved and exported" in seen.output
    run = tmp_path / "run"
    assert (run / "open_clip").is_dir()
    assert json.loads((run / "evaluation.json").read_text())["step"] == 5  # the one on the way
    words = ["--preset", str(run / "config.yaml"), f"train.out={run}", "train.resume=auto"]
    done = run_train(*words, cwd=data)
    assert done.returncode == 0, done.stderr
    assert "trained 8 steps" in done.stdout
    assert json.loads((run / "evaluation.json").read_text())["step"] == 8


def test_a_run_folder_that_is_removed_while_the_run_goes_on_is_made_again(data, tmp_path):
    run = tmp_path / "run"
    words = ["--preset", str(data / "tiny.yaml"), f"data.shards=[{data}/train]", f"train.out={run}"]
    words += ["train.steps=5", "train.save_every=0", "train.log_every=1", "train.tensorboard=false", "eval.after=[]"]
    env = environment(PYTHONPATH=checkout(), SLOW_MOMENT="step", SLOW_FOLDER=str(tmp_path))
    command = [sys.executable, str(ROOT / "tests" / "soak" / "slow.py"), *words, "data.max_skipped=0.9"]
    with subprocess.Popen(command, cwd=data, env=env, stdout=subprocess.PIPE, text=True) as front:
        ends = time.monotonic() + 120
        while not (tmp_path / "at.0").exists():
            assert front.poll() is None
            assert time.monotonic() < ends
            time.sleep(0.1)
        shutil.rmtree(run)
        said, _ = front.communicate(timeout=120)
    assert front.returncode == 0
    assert "was removed while the run goes on: it is made again" in said
    assert checkpoint.find(run).name == "step_00000005"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [3, 4, 5]
    assert {"config.yaml", "deepspeed.json", "open_clip"} <= {path.name for path in run.iterdir()}
    assert not (run / ".lock").exists()
