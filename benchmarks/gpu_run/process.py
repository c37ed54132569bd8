"""One job: run within its time, its output kept in a log, ended with all its processes when the time is over."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

from benchmarks import ROOT
from benchmarks.gpu_run.jobs import Job

GRACE = 20  # seconds in which a job may end by itself, once told to
SHOWN = 4000  # characters of a log's end

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
    """What `job` needs and this machine has not: packages (also looked for in `site`), or programs on the PATH."""
    return [name for name in job.needs if not (shutil.which(name) if "-" in name else _found(name, site))]


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
    log, start = logs / f"{job.name}.log", time.perf_counter()
    with log.open("a" if resume else "w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=_environment(job, site),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = PASSED if process.wait(seconds) == 0 else FAILED
        except subprocess.TimeoutExpired:
            status = TIMED_OUT
        finally:
            stop(process)
    print(log.read_text(encoding="utf-8", errors="replace")[-SHOWN:])
    return Outcome(job.name, status, time.perf_counter() - start)


def _environment(job: Job, site: Path | None) -> dict[str, str]:
    path = [str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", ""), *([str(site)] if site else [])]
    fixed = {"OMP_WAIT_POLICY": "passive", "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(filter(None, path))}
    return {**os.environ, **fixed, **job.environment}


def stop(process: subprocess.Popen) -> None:
    """End a job with all its processes: one that is left would hold the GPU under the next job."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):  # all have ended
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
