"""What a machine with a GPU is for, in one go, without a network: tests, sanitizer, benchmarks, a training, the claims.

    make gpu                                         or: python benchmarks/gpu.py
    python benchmarks/gpu.py --only tests,loss       some of the jobs
    python benchmarks/gpu.py --size tiny             the script itself, tried on a CPU at sizes that show nothing

Each job is a process with a time limit; one that fails does not stop the others. What they print is kept in a log each;
the benchmarks' CSVs and a summary, <device>.md, go to benchmarks/results. Exit status 1 if a job failed.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a plain clone is not installed

from benchmarks import RESULTS, ROOT
from benchmarks.common.measure import banner, device, device_slug

GRACE = 60  # seconds in which a job may end by itself, once told to
MOST_PROCESSES = 16  # of the tests
SANITIZED = ("memcheck", "racecheck")


@dataclass(frozen=True)
class Job:
    """A command; `needs` are the packages without which it is left out, and said so."""

    name: str
    command: list[str]
    seconds: int
    needs: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """status: passed, failed, timed out or left out; why: its reason, if it was left out."""

    name: str
    status: str
    seconds: float
    why: str = ""


def jobs(size: str, out: Path) -> Iterator[Job]:
    """All jobs, the most needed first."""
    python, benchmarks, sizes = sys.executable, ROOT / "benchmarks", ["--size", size, "--save", str(out)]
    interpreted = {"TRITON_INTERPRET": "1"} if device().type == "cpu" else {}
    tests = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(ROOT / "tests" / "kernels" / "device")]
    quick = ["-k", "layout"] if size == "tiny" else []
    yield Job("tests", [*tests, *side_by_side(), *quick], 540, ("pytest",), interpreted | {"OMP_NUM_THREADS": "1"})
    yield Job("loss", [python, str(benchmarks / "loss_bench.py"), *sizes], 420, ("open_clip", "lightly"))
    yield Job("patch_embed", [python, str(benchmarks / "patch_embed_bench.py"), *sizes], 300, ("timm",))
    yield Job("views", [python, str(benchmarks / "views_bench.py"), *sizes], 300, ("torchvision", "pydantic"))
    if size == "cuda":
        yield Job(
            "tune", [python, str(benchmarks / "tune.py"), "--save", str(out)], 420, ("open_clip", "lightly", "timm")
        )
    for tool in SANITIZED:
        command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "1", python]
        yield Job(tool, [*command, "-m", "benchmarks.kernels.sanitize"], 300, ("compute-sanitizer",))
    bench = [python, str(benchmarks / "train_bench.py"), "--save", str(out)]
    full = ["--preset", "silc_vit_b16", "--batch", "256", f"data.shards=[{ROOT}/data/sample]", "--data-steps", "0"]
    small = ["--steps", "1", "--data-steps", "0", "--batch", "4"]
    yield Job("train_bench", [*bench, *(full if size == "cuda" else small)], 540, ("deepspeed", "open_clip", "lightly"))
    short = ["train.steps=2", "train.global_batch=4", "data.sample_scenes=64"] if size == "tiny" else []
    train = [python, "-m", "deepspeed.launcher.runner", "--num_gpus", "1", str(ROOT / "launch" / "train.py")]
    trainer = ("deepspeed", "open_clip", "webdataset")
    yield Job("train", [*train, *short, f"train.out={out / 'run'}"], 540, trainer)
    claims = [python, str(ROOT / "launch" / "claims.py"), "--num_gpus", "1", "--out", str(out / "claims")]
    few = ["--pairs", "8", "optim.warmup_steps=1", "eval.after=[fewshot]", "eval.limit=16"]
    many = ["--preset", "sample_gpu", "--pairs", "65536,262144"]
    yield Job("claims", [*claims, *([*few, *short[1:]] if size == "tiny" else many)], 1500, trainer)


def side_by_side() -> list[str]:
    """pytest's options for one process a core, where pytest-xdist is there: most of the tests' time goes into compiling
    kernels. Each process holds some memory of the GPU, so that there is a limit.
    """
    cores = len(os.sched_getaffinity(0))
    return ["-n", str(min(cores, MOST_PROCESSES)), "--dist", "worksteal"] if find_spec("xdist") else []


def missing(job: Job) -> list[str]:
    """What `job` needs and this machine has not: packages, or programs on the PATH."""
    return [name for name in job.needs if not (shutil.which(name) if "-" in name else find_spec(name))]


def run(job: Job, logs: Path) -> Outcome:
    """Run one job, its output to <logs>/<name>.log and its end to the screen."""
    absent = missing(job)
    if absent:
        return Outcome(job.name, "left out", 0.0, f"needs {', '.join(absent)}")
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_WAIT_POLICY": "passive", **job.environment}
    log, start = logs / f"{job.name}.log", time.perf_counter()
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            job.command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status = "passed" if process.wait(job.seconds) == 0 else "failed"
        except subprocess.TimeoutExpired:
            status = "timed out"
            stop(process)
    print(log.read_text(encoding="utf-8", errors="replace")[-4000:])
    return Outcome(job.name, status, time.perf_counter() - start)


def stop(process: subprocess.Popen) -> None:
    """End a job with all its processes: one that is left would hold the GPU under the next job."""
    os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    with suppress(ProcessLookupError):  # all have ended
        os.killpg(process.pid, signal.SIGKILL)


def summary(outcomes: Sequence[Outcome]) -> str:
    """The markdown page."""
    import triton

    lines = [
        f"# {banner()}",
        "",
        f"{datetime.now(UTC).date().isoformat()}, Python {platform.python_version()}, triton {triton.__version__}, "
        f"CUDA {torch.version.cuda}. Made by `make gpu`; the measurements are in the CSV files beside this page.",
        "",
        "| job | outcome | seconds |",
        "|---|---|---|",
    ]
    for outcome in outcomes:
        why = f" ({outcome.why})" if outcome.why else ""
        lines.append(f"| {outcome.name} | {outcome.status}{why} | {outcome.seconds:.0f} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("tiny", "cuda"), default="cuda")
    parser.add_argument("--only", default="", metavar="JOB,JOB", help="these jobs alone")
    parser.add_argument("--out", type=Path, default=RESULTS, help="default: benchmarks/results")
    args = parser.parse_args(argv)
    if args.size == "cuda" and device().type != "cuda":
        parser.error("no GPU is visible to torch; --size tiny tries the script itself on a CPU")
    out = args.out.resolve()
    logs = out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    wanted = [name for name in args.only.split(",") if name]
    every = list(jobs(args.size, out))
    unknown = set(wanted) - {job.name for job in every}
    if unknown:
        parser.error(f"unknown job {', '.join(sorted(unknown))}; there are {', '.join(job.name for job in every)}")
    outcomes = []
    for job in every:
        if not wanted or job.name in wanted:
            print(f"== {job.name}: {' '.join(job.command)}", flush=True)
            outcomes.append(run(job, logs))
            (out / f"{device_slug()}.md").write_text(summary(outcomes), encoding="utf-8")
    print(summary(outcomes))
    return int(any(outcome.status in ("failed", "timed out") for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
