"""A call of benchmarks/gpu.py: alone in its folder, ended with its job; what it tells the next call and the shell."""

from __future__ import annotations

import argparse
import math
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.gpu_run import call, jobs, probes, process
from benchmarks.gpu_run.jobs import Job
from benchmarks.gpu_run.process import Outcome

ROOT = Path(__file__).resolve().parents[2]
CALL = """
import sys
from benchmarks import gpu
from benchmarks.gpu_run.jobs import Job
child = "import subprocess, time; print(subprocess.Popen(['sleep', '300']).pid, flush=True); time.sleep(300)"
gpu.jobs = lambda size, out: [Job("job", [sys.executable, "-c", child], 0, 60), Job("next", ["true"], 0, 60)]
sys.exit(gpu.main(["--size", "tiny", "--out", sys.argv[1]]))
"""


def wait(until: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def ended(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().split()[2] == "Z"
    except OSError:
        return True


def obeying() -> None:
    """Signals as a terminal's shell leaves them: one that starts the tests in the background ignores some."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def called(tmp_path) -> Iterator[tuple[subprocess.Popen, int]]:
    """A call at work, and a process that its job has started."""
    log = tmp_path / "logs" / "job.log"
    command = [sys.executable, "-c", CALL, str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=ROOT, preexec_fn=obeying, **pipes) as running:
        wait(lambda: (log.exists() and log.read_text().endswith("\n")) or running.poll() is not None)
        yield running, int(log.read_text())
        running.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_job_with_all_its_processes_and_the_next_call_goes_on(called, number, tmp_path):
    running, child = called
    running.send_signal(number)
    said = running.communicate(timeout=60)[0]
    assert running.returncode == 128 + number
    assert said.splitlines()[-1].startswith("interrupted; the same command goes on")
    assert "Traceback" not in said
    assert "== next" not in said
    wait(lambda: ended(child))
    assert "| job | left for the next call (interrupted) |" in (tmp_path / "cpu.md").read_text()


def test_the_job_of_a_killed_call_ends_and_until_then_the_folder_is_in_use(called, tmp_path, capsys):
    running, child = called
    with pytest.raises(SystemExit):
        gpu.main(["--size", "tiny", "--out", str(tmp_path), "--only", "roofline"])
    assert f"--out {tmp_path} is in use by another call" in capsys.readouterr().err
    running.kill()
    wait(lambda: ended(child))

    def free() -> bool:
        try:
            with call.alone(tmp_path):
                return True
        except ValueError:
            return False

    wait(free)


def test_ignored_signals_stay_ignored_and_handlers_come_back():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with call.interruptible():
            signal.raise_signal(signal.SIGHUP)
        with pytest.raises(call.Interrupted), call.interruptible():
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("minutes", ["-3", "0", "nan", "soon"])
def test_minutes_are_more_than_none(minutes, capsys):
    with pytest.raises(SystemExit):
        gpu.main(["--minutes", minutes])
    assert f"{minutes!r}: give minutes, more than 0" in capsys.readouterr().err
    with pytest.raises(argparse.ArgumentTypeError):
        call.minutes(minutes)
    assert (call.minutes("9.5"), call.minutes("inf")) == (9.5, math.inf)


def test_a_folder_that_cannot_be_written_is_said(tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    for out in (file, file / "below", Path("/proc")):
        with pytest.raises(SystemExit):
            gpu.main(["--size", "tiny", "--out", str(out)])
        said = capsys.readouterr()
        assert f"--out {out} cannot be written (" in said.err
        assert said.out == ""


def test_names_of_jobs_may_have_blanks_around_them(tmp_path, monkeypatch):
    taken: list[str] = []
    monkeypatch.setattr(gpu, "work", lambda todo, *_: taken.extend(job.name for job in todo) or 0)
    gpu.main(["--size", "tiny", "--out", str(tmp_path), "--only", "smoke, roofline ,"])
    assert taken == ["smoke", "roofline"]


@pytest.mark.parametrize(
    ("ends", "status"),
    [
        ([("passed", 3), ("left out", 0)], 0),
        ([("passed", 3), ("failed", 3)], 1),
        ([("timed out", 61), ("passed", 3)], 1),
        ([("timed out", 20), ("failed", 3)], 3),
        ([("failed", 3), ("left for the next call", 0)], 3),
    ],
)
def test_the_exit_status_tells_a_loop_whether_to_call_again(ends, status):
    todo = [Job(str(place), ["true"], 0, 60) for place in range(len(ends))]
    outcomes = {job.name: Outcome(job.name, *end) for job, end in zip(todo, ends, strict=True)}
    assert call.exit_status(todo, outcomes) == status


def test_a_training_goes_on_or_begins_in_a_fresh_folder(tmp_path):
    train, claims = (job for job in jobs.jobs("cuda", tmp_path) if job.name in ("train", "claims"))
    assert "train.resume=auto" in train.command
    assert f"train.out={train.runs}" in train.command
    assert str(claims.runs) in claims.command
    kept = [tmp_path / "run" / "notes", tmp_path / "claims" / "claims.md", tmp_path / "claims" / "other" / "notes"]
    held = [tmp_path / "run" / "config.yaml", tmp_path / "claims" / "silc-8-seed0" / "config.yaml"]
    for path in (*kept, *held):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for folder in (train.runs, claims.runs):
        begun = Job("job", ["true"], 0, 60, runs=folder)
        process.run(begun, tmp_path, 60, resume=True)
        assert all(path.exists() for path in held if path.is_relative_to(folder))
        process.run(begun, tmp_path, 60)
    assert not any(path.parent.exists() for path in held)
    assert all(path.exists() for path in kept[1:])


@pytest.fixture
def fresh() -> Iterator[None]:
    """Probes that have not run, before and after."""
    for probe in (probes.loopback, probes.interpreter):
        probe.cache_clear()
    yield
    for probe in (probes.loopback, probes.interpreter):
        probe.cache_clear()


def test_trainings_are_left_out_where_the_loopback_is_down(fresh, monkeypatch, tmp_path):
    assert probes.loopback() == ""
    probes.loopback.cache_clear()

    def down(*_, **__):
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", down)
    needing = [job for job in jobs.jobs("cuda", tmp_path) if probes.LOOPBACK in job.needs]
    assert [job.name for job in needing] == ["train", "train_bench", "claims"]
    outcome = process.run(Job("job", ["true"], 0, 60, (probes.LOOPBACK,)), tmp_path, 60)
    assert outcome.status == "left out"
    assert outcome.why.startswith("needs the network 127.0.0.1, which is down (Network is unreachable)")


def test_interpreted_jobs_are_left_out_where_the_interpreter_does_not_work(fresh, monkeypatch, tmp_path):
    assert probes.interpreter() == ""
    probes.interpreter.cache_clear()
    monkeypatch.setattr(probes, "INTERPRETER", f"open({str(tmp_path / 'asked')!r}, 'a').write('x'); print('NumPy 2.4')")
    job = Job("job", ["true"], 0, 60, environment={"TRITON_INTERPRET": "1"})
    for _ in range(2):
        outcome = process.run(job, tmp_path, 60)
        assert (outcome.status, outcome.why) == ("left out", "needs Triton's interpreter: NumPy 2.4")
    assert (tmp_path / "asked").read_text() == "x"
    assert process.run(Job("job", ["true"], 0, 60), tmp_path, 60).status == "passed"
