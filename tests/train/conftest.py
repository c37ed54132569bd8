"""The launches: one for each number of ranks, shared by all tests and by all of pytest's own processes."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 1080  # seconds; less than pytest's own limit, so that what a launch said is shown

Findings = list[dict[str, Any]]
"""What the worker left, a dictionary for each rank."""


@pytest.fixture(scope="session")
def launched(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Callable[[int], Findings]:
    """Findings of a number of ranks; launches at the first call, whichever of pytest's processes makes it."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent
    folder = shared / "launched"
    folder.mkdir(exist_ok=True)
    loaded: dict[int, Findings] = {}

    def findings(ranks: int) -> Findings:
        if ranks not in loaded:
            with (folder / f"{ranks}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                output = folder / f"{ranks}.log"
                if not output.exists():
                    launch([Path(__file__).with_name("worker.py"), folder], ranks, output)
            files = [folder / f"{ranks}-{rank}.pt" for rank in range(ranks)]
            if not all(file.exists() for file in files):
                pytest.fail(f"the launch on {ranks} ranks failed:\n{output.read_text()[-6000:]}")
            loaded[ranks] = [torch.load(file, weights_only=False) for file in files]
        return loaded[ranks]

    return findings


def launch(words: list[Any], ranks: int, output: Path) -> None:
    """Run a script with its arguments through DeepSpeed's launcher, to the end or the limit."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = Path(sys.executable).with_name("deepspeed")
    command = [launcher, "--num_gpus", ranks, "--master_port", port, *words]
    paths = {"PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}", "PATH": f"{launcher.parent}:{os.environ['PATH']}"}
    one_thread = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    with output.open("w") as log:
        process = subprocess.Popen(
            [str(part) for part in command],
            env=os.environ | paths | one_thread | {"DS_ACCELERATOR": "cpu"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            log.write(f"ended after {LIMIT} seconds\n")
