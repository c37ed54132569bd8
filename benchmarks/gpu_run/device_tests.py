"""The tests of the Triton kernels by all cores: most of their time goes into compiling. pytest alone is needed.

    python -m benchmarks.gpu_run.device_tests --save FOLDER      from the repository's root

Each process takes every n-th test (part.py) and writes its outcome to device_tests_<device>.csv as it ends; with
--resume those that have passed are not run again. Exit status 1 if one failed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks import RESULTS, ROOT
from benchmarks.common.measure import device_slug
from benchmarks.gpu_run import part

MOST_PROCESSES = 16  # each holds some memory of the GPU
TESTS = ROOT / "tests" / "kernels" / "device"


def command(place: int, processes: int, record: Path, only: str) -> list[str]:
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "benchmarks.gpu_run.part"]
    mine = ["--part", f"{place}/{processes}", "--record", str(record)]
    return [sys.executable, "-m", "pytest", *options, *mine, *(["-k", only] if only else []), str(TESTS)]


def run(record: Path, processes: int, only: str) -> bool:
    """All tests, the output of each process behind that of the one before. Whether every process ended well."""
    logs = [record.with_name(f"{record.stem}_{place}.log") for place in range(processes)]
    running = []
    for place, log in enumerate(logs):
        with log.open("w", encoding="utf-8") as file:
            running.append(
                subprocess.Popen(
                    command(place, processes, record, only), cwd=ROOT, stdout=file, stderr=subprocess.STDOUT
                )
            )
    # pytest's 5: none of the tests was in this part, or all had passed.
    statuses = [process.wait() for process in running]
    for log in logs:
        print(log.read_text(encoding="utf-8", errors="replace"), flush=True)
        log.unlink()
    return set(statuses) <= {0, 5}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", type=Path, nargs="?", const=RESULTS, default=RESULTS, metavar="FOLDER")
    parser.add_argument("--processes", type=int, default=min(len(os.sched_getaffinity(0)), MOST_PROCESSES))
    parser.add_argument("--only", default="", metavar="TEXT", help="tests whose name contains this")
    parser.add_argument("--resume", action="store_true", help="tests that have passed are not run again")
    args = parser.parse_args(argv)
    args.save.mkdir(parents=True, exist_ok=True)
    record = args.save.resolve() / f"device_tests_{device_slug()}.csv"
    if not args.resume:
        record.unlink(missing_ok=True)
    start = time.monotonic()
    well = run(record, args.processes, args.only)
    outcomes = part.outcomes(record)
    counts = Counter(outcomes.values())
    words = ", ".join(f"{number} {outcome}" for outcome, number in sorted(counts.items()))
    print(f"{words or 'no test ran'}, in {time.monotonic() - start:.0f} s by {args.processes} processes; see {record}")
    for test, outcome in outcomes.items():
        if outcome == part.FAILED:
            print(f"failed: {test}")
    return int(not well or not counts or counts[part.FAILED] > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
