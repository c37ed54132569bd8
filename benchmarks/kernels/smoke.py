"""Every op in every dtype once, forward and backward, against float64 on the device: right or wrong in two minutes.

    python -m benchmarks.kernels.smoke                        from the repository's root, on a machine with a GPU
    python -m benchmarks.kernels.smoke --save FOLDER          to smoke_<device>.csv, a line before the next begins
    TRITON_INTERPRET=1 python -m benchmarks.kernels.smoke     anywhere, at sizes that show the script alone

The product of half precision into float32 comes first: every gradient of the contrastive loss in half precision hangs
on it. A check that ends its process (a fault on the device ends all that follows in one) is written as crashed, and the
next goes on in a new process. What is done is not repeated with --resume. Exit status 1: something is wrong.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import RESULTS, ROOT
from benchmarks.common.files import write_csv
from benchmarks.common.measure import banner, device, device_slug
from benchmarks.kernels.smoke_checks import Check, checks

RUNNING, PASSED, WRONG, FAILED, CRASHED = "running", "passed", "wrong", "failed", "crashed"


@dataclass
class Result:
    """A line. error, plain: of the worst of value and gradients, by ours and by plain torch; NaN: not measured.
    repeated: two runs agree to the last bit.
    """

    check: str
    outcome: str = RUNNING
    error: float = math.nan
    plain: float = math.nan
    allowed: float = math.nan
    repeated: bool = False
    seconds: float = 0.0
    why: str = ""


def judged(check: Check) -> Result:
    """Run a check: ours twice, plain torch and float64 once."""
    start = time.perf_counter()
    ours, again = check.solve("triton"), check.solve("triton")
    plain, exact = check.solve("torch"), check.solve("exact")
    worst = Result(check.name, PASSED)
    worst.repeated = all(torch.equal(a, b) for a, b in zip(ours, again, strict=True))
    ratio = -1.0
    for place, (mine, theirs, right) in enumerate(zip(ours, plain, exact, strict=True)):
        # Of one number that is a small difference of large ones, no digit need be right: held against the loss.
        size = float(right.double().norm()) if right.numel() > 1 else float(exact[0].double().norm())
        error, other = distance(mine, right) / size, distance(theirs, right) / size
        allowed = 2 * other + check.floor
        if not error / (allowed or 1) <= ratio:  # NaN too
            ratio = error / (allowed or 1)
            worst.error, worst.plain, worst.allowed = error, other, allowed
        if not error <= allowed:
            worst.outcome, worst.why = WRONG, f"result {place}"
            break
    if not worst.repeated:
        worst.outcome, worst.why = WRONG, f"{worst.why} two runs differ".strip()
    worst.seconds = time.perf_counter() - start
    return worst


def distance(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm())


def run(path: Path | None, done: dict[str, Result]) -> None:
    """Every check that is not in `done`, each written as running before it begins."""
    for check in checks():
        if check.name in done:
            continue
        done[check.name] = Result(check.name)
        write(done, path)
        try:
            result = judged(check)
        except Exception as error:  # a finding; the next is to be tried all the same
            lines = str(error).strip().splitlines() or [""]
            result = Result(check.name, FAILED, why=f"{type(error).__name__}: {lines[0]}")
        done[check.name] = result
        write(done, path)
        print(line(result), flush=True)
        if result.outcome == FAILED and broken():
            raise SystemExit(f"{check.name} left the device unusable")


def broken() -> bool:
    """Whether the device answers no more: after a fault none of its process's calls does."""
    if device().type != "cuda":
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def line(result: Result) -> str:
    numbers = "error -"  # not measured
    if result.outcome in (PASSED, WRONG):
        numbers = f"error {result.error:.1e} (plain torch {result.plain:.1e}, allowed {result.allowed:.1e})"
    return f"  {result.outcome:8s} {result.check:64s} {numbers} {result.seconds:5.1f} s  {result.why}"


def write(results: dict[str, Result], path: Path | None) -> None:
    if path is None:
        return
    rows = (
        {k: f"{v:.3g}" if isinstance(v, float) else v for k, v in asdict(each).items()} for each in results.values()
    )
    write_csv(path, [field.name for field in fields(Result)], rows)


def read(path: Path) -> dict[str, Result]:
    """What was done before; what was running then has crashed. Nothing, and said so, of a table that cannot be read."""
    if not path.exists():
        return {}
    found = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                numbers = {name: float(row[name]) for name in ("error", "plain", "allowed", "seconds")}
                again = row["repeated"] == "True"
                result = Result(row["check"], row["outcome"], repeated=again, why=row["why"], **numbers)
                if result.outcome == RUNNING:
                    result.outcome, result.why = CRASHED, "its process ended"
                found[result.check] = result
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        print(f"{path} cannot be read ({type(error).__name__}: {error}): begun afresh", flush=True)
        return {}
    return found


def begin(path: Path, names: Sequence[str], resume: bool) -> None:
    """What is to be done is not in the table: everything, or with `resume` what a stopped run left. Where it had come
    to its end, what was not right is tried again.
    """
    before = read(path) if resume else {}
    if set(names) <= before.keys():
        before = {name: result for name, result in before.items() if result.outcome == PASSED}
    if before:
        write(before, path)
    else:
        path.unlink(missing_ok=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", type=Path, nargs="?", const=RESULTS, metavar="FOLDER", help="or benchmarks/results")
    parser.add_argument("--resume", action="store_true", help="what the saved table has is not done again")
    parser.add_argument("--here", action="store_true", help="in this process alone")
    args = parser.parse_args(argv)
    if os.environ.get("TRITON_INTERPRET") == "1":
        from tests.kernels.device.interpreter import trouble

        if not args.here and (why := trouble()):  # every check would fail, without a reason
            parser.error(why)
    path = args.save and args.save.resolve() / f"smoke_{device_slug()}.csv"
    if args.here or path is None:
        print(banner(), flush=True)
        done = read(path) if path else {}
        run(path, done)
        return int(any(result.outcome != PASSED for result in done.values()))
    names = [check.name for check in checks()]
    begin(path, names, args.resume)
    known = -1
    while len(done := read(path)) > known and not set(names) <= done.keys():  # a process that does nothing is the last
        known = len(done)
        command = [sys.executable, "-m", "benchmarks.kernels.smoke", "--here", "--save", str(path.parent)]
        subprocess.run(command, cwd=ROOT, check=False)
    write(done, path)
    wrong = [result for result in done.values() if result.outcome != PASSED]
    print(f"{len(done) - len(wrong)} of {len(names)} passed; written to {path}")
    for result in wrong:
        print(line(result))
    return int(bool(wrong) or len(done) < len(names))


if __name__ == "__main__":
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    sys.exit(main(sys.argv[1:]))
