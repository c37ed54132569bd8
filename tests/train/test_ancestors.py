"""A rank notices what happens above it and beside it, whatever its main thread does."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from silc.processes import Known, known
from silc.train import ancestors

ROOT = Path(__file__).resolve().parents[2]
# Each starts the next one, and outlives a signal that is not for it.
RUNNER = """
import subprocess, sys
sys.exit(subprocess.run([sys.executable, "-c", *sys.argv[2:]]).returncode)
"""
LAUNCHER = """
import subprocess, sys
ranks = [subprocess.Popen([sys.executable, "-c", sys.argv[2], f"--local_rank={i}", *sys.argv[3:]]) for i in range(2)]
sys.exit(max(rank.wait() for rank in ranks))
"""
RANK = """
import hashlib, os, pathlib, sys, threading, time
from silc.train import listener
from silc.train.stop import StartInterrupted, StopRequest
number, how = sys.argv[1][-1], sys.argv[2]
listener.PATIENCE = 1.0
look, knows = listener.ancestors, threading.Event()
def ancestors():  # by the listening thread: only then does this rank know whom to watch
    found = look()
    knows.set()
    return found
listener.ancestors = ancestors
with StopRequest(starting="starting" in how) as request, listener.listening(request):
    knows.wait()
    pathlib.Path(f"ready.{number}").write_text(f"{os.getpid()} {os.getppid()}")
    if f"stuck{number}" in how:  # as in a collective: no handler runs meanwhile
        hashlib.pbkdf2_hmac("sha256", b"", b"", 500_000_000)
    end = time.monotonic() + 60
    while not request.received and not pathlib.Path("enough").exists() and time.monotonic() < end:
        time.sleep(0.05)
    pathlib.Path(f"ended.{number}").write_text(f"{request.received}: {request.lost}")
"""
FORM = ["--enable_each_rank_log=None", "--log_level=info"]  # what DeepSpeed's runner gives


def until(there: Callable[[], object]) -> None:
    """Wait until something is there."""
    ends = time.monotonic() + 60
    while not there():
        assert time.monotonic() < ends
        time.sleep(0.05)


@pytest.fixture
def job(tmp_path) -> Iterator[Callable[..., tuple[subprocess.Popen, dict[str, int]]]]:
    """job(how, runner=): a shell, a runner, a node launcher and two ranks, and their pids."""
    shells = []

    def start(how: str = "", *, runner: str = ancestors.RUNNER, **extra: str):
        words = [LAUNCHER, ancestors.NODE_LAUNCHER, RANK, how, *FORM]
        command = [sys.executable, "-c", RUNNER, runner, *words]
        env = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}", "LOCAL_RANK": "0"} | extra
        line = ["sh", "-c", '"$@"; exit $?', "sh", *command]
        shells.append(subprocess.Popen(line, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True))
        until(lambda: all((tmp_path / f"ready.{i}").exists() and (tmp_path / f"ready.{i}").read_text() for i in "01"))
        ranks = [[int(pid) for pid in (tmp_path / f"ready.{i}").read_text().split()] for i in "01"]
        node = ranks[0][1]
        pids = {"rank0": ranks[0][0], "rank1": ranks[1][0], "node": node, "runner": psutil.Process(node).ppid()}
        return shells[-1], pids | {"shell": shells[-1].pid}

    yield start
    (tmp_path / "enough").touch()
    for shell in shells:
        below = psutil.Process(shell.pid).children(recursive=True) if shell.poll() is None else []
        for process in [*below, shell]:
            with contextlib.suppress(psutil.Error):  # one that has ended since
                process.kill()
        shell.communicate()


def ended(tmp_path: Path, number: int) -> str:
    """What a rank has left."""
    path = tmp_path / f"ended.{number}"
    until(lambda: path.exists() and path.read_text())
    return path.read_text()


@pytest.mark.parametrize("who", ["runner", "node"])
def test_a_launcher_that_is_killed_ends_every_rank(job, tmp_path, who):
    _, pids = job()
    os.kill(pids[who], signal.SIGKILL)
    name = ancestors.RUNNER if who == "runner" else ancestors.NODE_LAUNCHER
    for number in (0, 1):
        assert ended(tmp_path, number).startswith(f"True: {name} (")


def test_a_shell_above_that_ends_ends_nothing(job, tmp_path):
    _, pids = job()
    os.kill(pids["shell"], signal.SIGKILL)
    time.sleep(2.5)
    assert not list(tmp_path.glob("ended.*"))
    (tmp_path / "enough").touch()
    assert ended(tmp_path, 1) == "False: None"


def test_the_silc_process_above_is_known_by_the_environment(job, tmp_path):
    """However many processes lie between; one that had ended before the rank looked counts too."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as front:
        process = known(front.pid)
        owner = f"{process.pid} {process.started} {ancestors._space()}"
        job(**{ancestors.OWNER: owner})
        front.kill()
    assert f"silc (process {front.pid}" in ended(tmp_path, 1)


def test_a_runner_that_ended_before_its_ranks_began_is_missed(job, tmp_path):
    """What is above the node launcher is the first process of the machine, then: here another one in its place."""
    _, pids = job(runner="no-runner")
    assert not list(tmp_path.glob("ended.*"))
    node = psutil.Process(pids["node"])
    assert not ancestors._is_orphan(node, node.parents())
    os.kill(pids["runner"], signal.SIGKILL)
    until(lambda: node.ppid() != pids["runner"])
    assert ancestors._is_orphan(node, [psutil.Process(1)])
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as ends:
        assert not ancestors._is_orphan(node, [psutil.Process(ends.pid)])
        ends.kill()
        until(lambda: known(ends.pid) is None)
        assert ancestors._is_orphan(node, [psutil.Process(ends.pid)])  # though nobody has waited for it


def test_a_node_launcher_that_ended_before_its_rank_looked_is_missed(monkeypatch):
    for name in ancestors.STARTED:
        monkeypatch.setenv(name, "1")
    (found,) = ancestors._launchers([psutil.Process(1)])
    assert (found.what, found.process) == (ancestors.NODE_LAUNCHER, None)
    monkeypatch.delenv("CROSS_SIZE")
    assert ancestors._launchers([psutil.Process(1)]) == []


def test_a_signal_to_a_rank_that_cannot_hear_it_reaches_the_other(job, tmp_path):
    _, pids = job("stuck0")
    os.kill(pids["rank0"], signal.SIGUSR1)
    assert ended(tmp_path, 1) == "True: None"


def test_a_start_that_cannot_hear_a_signal_is_ended(job, tmp_path):
    shell, pids = job("starting stuck0")
    os.kill(pids["rank0"], signal.SIGTERM)
    ends = known(pids["rank0"])
    until(lambda: not ends.alive)
    until(lambda: shell.poll() is not None)
    assert shell.returncode == 75  # the other one had the exception, status 1


def test_an_ssh_session_without_a_terminal_is_part_of_the_job(monkeypatch):
    class Process:
        def __init__(self, name: str, *words: str, terminal: str | None = None) -> None:
            self.pid, self._name, self._words, self._terminal = os.getpid(), name, words, terminal

        def name(self) -> str:
            return self._name

        def cmdline(self) -> list[str]:
            return list(self._words)

        def terminal(self) -> str | None:
            return self._terminal

    node = Process("python", "python", "-u", "-m", ancestors.NODE_LAUNCHER)
    shell, session = Process("bash", "bash", "-c", "cd x; python"), Process("sshd-session", "sshd: me@notty")
    above = ancestors._launchers([node, shell, session, Process("sshd"), Process("systemd")])
    assert [one.what for one in above] == [ancestors.NODE_LAUNCHER, "ssh", "ssh"]
    by_hand = Process("python", "python", "-u", "-m", ancestors.NODE_LAUNCHER, terminal="/dev/pts/0")
    assert [one.what for one in ancestors._launchers([by_hand, session])] == [ancestors.NODE_LAUNCHER]
    login = Process("bash", "-bash")
    assert [one.what for one in ancestors._launchers([node, login, session])] == [ancestors.NODE_LAUNCHER]
    assert [one.what for one in ancestors._launchers([Process("prted", "prted", "-x")])] == ["prted"]
    assert ancestors._launchers([Process("bash", "bash", "train.sh")]) == []
    assert ancestors._launchers([]) == []


def test_a_process_is_known_by_its_start():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        process = known(child.pid)
        assert process.alive
        assert not Known(process.pid, process.started - 1).alive  # an earlier one of that number
        child.kill()
        until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE)
        assert not process.alive  # though nobody has waited for it
        assert known(child.pid) is None
    assert not process.alive
