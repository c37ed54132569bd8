"""launch/slurm.sh passes SLURM's signal to the ranks, past a launcher that would die of it."""

from __future__ import annotations

import os
import signal
import subprocess
import time

from .conftest import ROOT

STANDS_FOR = {
    "scontrol": "echo node0",
    "srun": 'shift; echo $$ > task; exec "$@"',  # what follows --kill-on-bad-exit
    "deepspeed": "bash ./per_node & wait $!",
    "per_node": "python3 ./rank & wait $!; exit $?",
    "rank": """#!/usr/bin/env python3
import pathlib, signal, sys
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))
pathlib.Path("ready").touch()
signal.pause()
""",
}


def test_the_signal_reaches_the_ranks_and_their_status_comes_back(tmp_path):
    (tmp_path / "bin").mkdir()
    for name, text in STANDS_FOR.items():
        path = tmp_path / ("bin" if name in ("scontrol", "srun", "deepspeed") else "") / name
        path.write_text(text if text.startswith("#!") else f"#!/usr/bin/env bash\n{text}\n")
        path.chmod(0o755)
    node = {"SLURM_JOB_NODELIST": "node0", "SLURM_JOB_ID": "7", "SLURM_NODEID": "0", "VENV": str(tmp_path)}
    job = subprocess.Popen(["bash", str(ROOT / "launch/slurm.sh")], cwd=tmp_path, env=dict(os.environ) | node)
    ends = time.monotonic() + 60
    while not (tmp_path / "ready").exists():
        assert job.poll() is None
        assert time.monotonic() < ends
        time.sleep(0.1)
    os.kill(int((tmp_path / "task").read_text()), signal.SIGUSR1)
    assert job.wait(timeout=60) == 75
    assert not list(tmp_path.glob("hostfile.*"))
