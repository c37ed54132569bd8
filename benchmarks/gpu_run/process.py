"""One job: run within its time, its output kept in a log, ended with all its processes when the time is over."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

from benchmarks import ROOT
from benchmarks.gpu_run import probes
from benchmarks.gpu_run.jobs import Job

GRACE = 20  # seconds in which a job may end by itself, once told to
SHOWN = 4000  # characters of a log's end
PR_SET_PDEATHSIG = 1  # prctl.h
# It waits for the end of its input, which is of this script, however it ends; after a line nothing is to be done.
WATCH = """
read -r line && exit
kill -s TERM -- -{group} 2>/dev/null
for second in $(seq {grace}); do kill -s 0 -- -{group} 2>/dev/null || exit; sleep 1; done
kill -s KILL -- -{group} 2>/dev/null
"""
LIBC = ctypes.CDLL(None)

PASSED, FAILED, TIMED_OUT = "passed", "failed", "timed out"
LEFT_OUT, LEFT = "left out", "left for the next call"


@dataclass(frozen=True)
class Outcome:
    """status: one of the five above; why: its reason, if the job was not run."""

    name: str
    status: str
    seconds: float
    why: str = ""


def missing(job: Job, site: Path | None) -> list[str]:
    """What `job` needs and this machine has not: packages (also looked for in `site`), programs on the PATH, a network
    within the machine, an interpreter of Triton that works.
    """
    named = [name for name in job.needs if name != probes.LOOPBACK]
    absent = [name for name in named if not (shutil.which(name) if "-" in name else _found(name, site))]
    if not absent and probes.LOOPBACK in job.needs:
        absent.append(probes.loopback())
    if not absent and job.environment.get("TRITON_INTERPRET") == "1":
        absent.append(probes.interpreter())
    return [words for words in absent if words]


def _found(package: str, site: Path | None) -> bool:
    places = [None, *([] if site is None else [[str(site)]])]
    return any(PathFinder.find_spec(package, place) is not None for place in places)


def run(job: Job, logs: Path, seconds: float, *, resume: bool = False, site: Path | None = None) -> Outcome:
    """Run one job for `seconds` at most, its output to <logs>/<name>.log and its end to the screen.

    resume: it takes up what an earlier run of it has written. site: a folder of packages beside those installed.
    """
    absent = missing(job, site)
    if absent:
        return Outcome(job.name, LEFT_OUT, 0.0, f"needs {', '.join(absent)}")
    command = [*job.command, *(["--resume"] if resume and job.resumes else [])]
    if job.runs is not None and not resume:
        remove_runs(job.runs)
    log, start = logs / f"{job.name}.log", time.perf_counter()
    with log.open("a" if resume else "w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=_environment(job, site),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
        with ended(process):
            try:
                status = PASSED if process.wait(seconds) == 0 else FAILED
            except subprocess.TimeoutExpired:
                status = TIMED_OUT
    print(log.read_text(encoding="utf-8", errors="replace")[-SHOWN:])
    return Outcome(job.name, status, time.perf_counter() - start)


def _environment(job: Job, site: Path | None) -> dict[str, str]:
    path = [str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", ""), *([str(site)] if site else [])]
    fixed = {"OMP_WAIT_POLICY": "passive", "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(filter(None, path))}
    return {**os.environ, **fixed, **job.environment}


def _end_with_parent() -> None:
    """In a job's process, before its program: it is asked to end when this script does."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


@contextmanager
def ended(job: subprocess.Popen) -> Iterator[None]:
    """End all processes of the job behind the block, and also if this one is killed within it.

    For the latter a shell watches: a signal of the kernel would reach the first of them alone. It inherits the lock of
    the results' folder (call.py), so that the next call is refused until then.
    """
    command, quiet = ["sh", "-c", WATCH.format(group=job.pid, grace=GRACE)], subprocess.DEVNULL
    watch = None
    try:
        watch = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True, close_fds=False
        )
        yield
    finally:
        stop(job)
        if watch is not None:
            watch.communicate(b"\n")


def remove_runs(folder: Path) -> None:
    """The training run that `folder` is, or those in it; nothing else."""
    for path in [folder / "config.yaml", *folder.glob("*/config.yaml")]:
        if path.is_file():
            shutil.rmtree(path.parent)


def stop(process: subprocess.Popen) -> None:
    """End a job with all its processes: one that is left would hold the GPU under the next job."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):  # all have ended
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
