"""What `silc train` makes of launchers that end before their ranks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from silc.commands.supervision import TOLD, outcome, tell, told
from silc.train.ancestors import NODE_LAUNCHER, RUNNER

from .conftest import checkout, environment


@pytest.mark.parametrize(
    ("status", "statuses", "stopped", "here", "expected"),
    [
        (0, {0: 0, 1: 0}, False, True, 0),
        (75, {0: 75, 1: 75}, True, True, 75),
        (1, {0: 75, 1: 75}, False, True, 75),  # the node launcher was asked to stop
        (0, {0: 75, 1: 75}, False, True, 75),  # it was killed
        (-15, {0: 75}, True, True, 75),  # the runner was
        (-9, {0: 75}, False, True, 75),
        (1, {0: 1, 1: 1}, False, True, 1),
        (0, {0: 1}, False, True, 1),
        (2, {}, False, True, 2),
        (0, {}, False, True, 1),  # the node launcher was killed before it had started the ranks
        (0, {}, False, False, 0),  # the ranks are on other machines
        (-15, {}, True, True, 75),  # stopped before they could tell
        (241, {}, True, True, 75),
        (241, {}, False, True, 241),
        (247, {0: 75}, True, True, 247),  # a rank was killed
        (247, {}, True, True, 247),
    ],
)
def test_the_status_of_a_job(status, statuses, stopped, here, expected):
    assert outcome(status, statuses, stopped=stopped, here=here) == expected


def test_a_rank_tells_its_status(tmp_path, monkeypatch):
    monkeypatch.delenv(TOLD, raising=False)
    tell(75)
    monkeypatch.setenv(TOLD, str(tmp_path))
    for rank in ("0", "11"):
        monkeypatch.setenv("RANK", rank)
        tell(75)
    (tmp_path / "x").write_text("1")
    (tmp_path / "2").write_text("many")
    assert told(tmp_path) == {0: 75, 11: 75}
    monkeypatch.setenv(TOLD, str(tmp_path / "gone"))
    tell(0)


FRONT = """
import sys
sys.path[:0] = {path!r}
from silc.commands import launcher
launcher.command = lambda *_: [sys.executable, "-c", *{words!r}]
sys.exit(launcher.run("silc train", "m", [], []))
"""
RUNNER_PART = """
import subprocess, sys
sys.exit(max(0, subprocess.run([sys.executable, "-c", *sys.argv[2:]]).returncode))  # as DeepSpeed's: 0 for a signal
"""
NODE_PART = """
import os, signal, subprocess, sys, time
asked = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: asked.append(rank.terminate()))
rank = subprocess.Popen([sys.executable, "-c", sys.argv[2], "--local_rank=0"], env={**os.environ, "RANK": "0"})
while rank.poll() is None:
    time.sleep(0.05)
sys.exit(1 if asked else rank.returncode)
"""
RANK = """
import pathlib, sys, time
from silc.commands.supervision import tell
from silc.train.listener import listening
from silc.train.stop import StopRequest, ignore_signals
with StopRequest() as request, listening(request):
    pathlib.Path("ready").touch()
    while not request.received:
        time.sleep(0.05)
time.sleep(0.5)  # it saves
pathlib.Path("saved").touch()
ignore_signals()
tell(75)
sys.exit(75)
"""


def until(there: Callable[[], object]) -> None:
    """Wait until something is there."""
    ends = time.monotonic() + 60
    while not there():
        assert time.monotonic() < ends
        time.sleep(0.05)


def start(folder: Path, *words: str) -> subprocess.Popen:
    """`silc train` with stand-ins for DeepSpeed's launchers and a rank."""
    code = FRONT.format(path=checkout().split(os.pathsep), words=words)
    env = environment(PYTHONPATH=checkout())
    return subprocess.Popen([sys.executable, "-c", code], cwd=folder, env=env, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("who", [RUNNER, NODE_LAUNCHER])
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_launcher_that_is_ended_leaves_a_job_that_saves_and_is_waited_for(tmp_path, who, signum):
    with start(tmp_path, RUNNER_PART, RUNNER, NODE_PART, NODE_LAUNCHER, RANK) as front:
        until(lambda: (tmp_path / "ready").exists())
        below = psutil.Process(front.pid).children(recursive=True)
        (process,) = [one for one in below if who in one.cmdline()[:5]]
        process.send_signal(signum)
        _, err = front.communicate(timeout=60)
    assert (tmp_path / "saved").exists()
    assert not [one for one in below if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    assert front.returncode == 75, err


def test_a_node_launcher_that_is_killed_before_it_has_ranks_is_no_success(tmp_path):
    with start(tmp_path, RUNNER_PART, RUNNER, "import os; os.kill(os.getpid(), 9)", NODE_LAUNCHER) as front:
        _, err = front.communicate(timeout=60)
    assert front.returncode == 1
    assert err == "silc train: a process of the job was ended before its ranks had started\n"


def test_a_node_launcher_without_ranks_ends_with_the_runner(tmp_path):
    node = "import pathlib, time; pathlib.Path('ready').touch(); time.sleep(60)"
    with start(tmp_path, RUNNER_PART, RUNNER, node, NODE_LAUNCHER) as front:
        until(lambda: (tmp_path / "ready").exists())
        below = psutil.Process(front.pid).children(recursive=True)
        (runner,) = [one for one in below if RUNNER in one.cmdline()[:5]]
        runner.kill()
        _, err = front.communicate(timeout=60)
    assert front.returncode == 137
    assert "a process of the job was ended by SIGKILL" in err
