"""What a machine with a GPU is for, without a network, in calls of some minutes: smoke test, benchmarks, tests.

    make gpu                                         or: python benchmarks/gpu.py
    python benchmarks/gpu.py --minutes 9.5           what fits in that time; called again, the rest
    python benchmarks/gpu.py --only smoke,loss       some of the jobs
    python benchmarks/gpu.py --size tiny             the script itself, tried on a CPU at sizes that show nothing
    make gpu-wheels                                  with a network: what peers and a training need, to .whl
    python benchmarks/gpu.py --wheels .whl           with those packages

Jobs come in the order of their worth (benchmarks/gpu_run/jobs.py says why). Each is a process with a time limit; one
that fails does not stop the others. Results are written before the next job begins: logs, the benchmarks' CSVs and a
summary, <device>.md, in benchmarks/results. What has been done there by the same sources and versions on this device is
not done again, unless --again says so; what failed is tried once more in the next call. Exit status: 3 while something
is left for the next call, then 1 if a job failed, 0 if none; 2 for a mistake; 128 + n for a call that signal n ended.
"""

from __future__ import annotations

import argparse
import math
import platform
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a plain clone is not installed

from benchmarks import RESULTS
from benchmarks.common.files import write_text
from benchmarks.common.measure import banner, device, device_slug
from benchmarks.gpu_run import wheels
from benchmarks.gpu_run.call import Interrupted, alone, exit_status, interruptible, minutes
from benchmarks.gpu_run.jobs import Job, jobs
from benchmarks.gpu_run.process import GRACE, LEFT, Outcome, missing, run
from benchmarks.gpu_run.progress import Progress, keys


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


def work(
    todo: Sequence[Job], every: Sequence[Job], progress: Progress, out: Path, end: float, site: Path | None
) -> int:
    """Run what of `todo` is not finished and fits into the time, until `end` on the monotonic clock, and write the page
    of `every` job, also of earlier calls. The exit status.
    """
    now: dict[str, Outcome] = {}
    logs = out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    for job in todo:
        try:
            now[job.name] = one(job, progress, logs, end - time.monotonic() - GRACE, site)
        except Interrupted:
            now[job.name] = Outcome(job.name, LEFT, 0.0, "interrupted")
            raise
        finally:
            known = (now.get(each.name) or progress.outcome(each) for each in every)
            page = summary([outcome for outcome in known if outcome is not None])
            write_text(out / f"{device_slug()}.md", page)
    print(page)
    return exit_status(todo, now)


def one(job: Job, progress: Progress, logs: Path, left: float, site: Path | None) -> Outcome:
    """left: seconds. What did not fit into them is no outcome to be kept."""
    if progress.finished(job):
        outcome = progress.outcome(job)
        print(f"== {job.name}: {outcome.status} in an earlier call; --again repeats it", flush=True)
        return outcome
    if left < job.least and not missing(job, site):
        outcome = Outcome(job.name, LEFT, 0.0, f"{max(0, left):.0f} s left, {job.least} s needed")
        print(f"== {job.name}: {outcome.status} ({outcome.why})", flush=True)
        return outcome
    print(f"== {job.name}: {' '.join(job.command)}", flush=True)
    begun = progress.begin(job)
    outcome = run(job, logs, min(left, job.most), resume=begun, site=site)
    progress.end(job, outcome)
    return outcome


def main(argv: Sequence[str] | None = None) -> int:
    try:
        with interruptible():
            return call(argv)
    except Interrupted as interrupted:
        print("interrupted; the same command goes on, without --again", flush=True)
        return 128 + interrupted.number


def call(argv: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("tiny", "cuda"), default="cuda")
    parser.add_argument(
        "--minutes", type=minutes, default=math.inf, help="for all jobs and --wheels; default: as long as they take"
    )
    parser.add_argument("--only", default="", metavar="JOB,JOB", help="these jobs alone")
    parser.add_argument(
        "--again", action="store_true", help="also what earlier calls have finished; with --only, of those jobs"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="default: benchmarks/results")
    parser.add_argument("--wheels", type=Path, metavar="FOLDER", help="packages to use, from --download")
    parser.add_argument("--download", type=Path, metavar="FOLDER", help="fetch those packages, and do nothing else")
    args = parser.parse_args(argv)
    if args.download is not None:
        return wheels.download(args.download.resolve())
    end = time.monotonic() + 60 * args.minutes
    if args.size == "cuda" and device().type != "cuda":
        parser.error("no GPU is visible to torch; --size tiny tries the script itself on a CPU")
    out = args.out.resolve()
    every = list(jobs(args.size, out))
    wanted = [name.strip() for name in args.only.split(",") if name.strip()]
    unknown = set(wanted) - {job.name for job in every}
    if unknown:
        parser.error(f"unknown job {', '.join(sorted(unknown))}; there are {', '.join(job.name for job in every)}")
    todo = [job for job in every if not wanted or job.name in wanted]
    with ExitStack() as held:
        try:
            held.enter_context(alone(out))
        except ValueError as error:
            parser.error(str(error))
        site = None if args.wheels is None else wheels.install(args.wheels.resolve(), out / "site")
        progress = Progress.load(out / f"gpu_{device_slug()}.json", keys(device_slug(), args.size, out))
        if args.again:
            progress.forget(todo)
        return work(todo, every, progress, out, end, site)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
