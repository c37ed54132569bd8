"""A training that is killed again and again, and goes on with other numbers of ranks and in other ZeRO stages.

    python -m tests.soak.elastic [--quick] [--seed N]

One run in one go; then a second one, each part of which has ranks and a ZeRO stage drawn at random and is ended by
SIGKILL to all its processes after a random number of steps, wherever it is then, in a checkpoint too. Every loss of the
second, as its log has them in the end, is that of the first: rounding over other ranks is all that may be seen.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks import ROOT
from silc.ports import free_port
from tests.soak.common import Table, finish, write_set
from tests.soak.faults import losses, preset, training
from tests.soak.served import Place, environment_of, index

RANKS, STAGES = (1, 2, 3, 5), (1, 2, 3)
CLOSE = 1e-4  # relative difference of a loss
LIMIT = 900  # seconds of one part
PARTS = 60  # that a run may need


def launch(words: list[str], ranks: int, log: Path) -> subprocess.Popen[bytes]:
    """A training on some ranks of this machine."""
    folder = Path(sys.executable).parent
    command = [str(folder / "deepspeed"), "--num_gpus", str(ranks), "--master_port", str(free_port()), *words]
    more = {"DS_ACCELERATOR": "cpu", "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    with log.open("ab") as file:
        return subprocess.Popen(command, cwd=ROOT, env=environment_of(more), stdout=file, stderr=file)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a training with everything that it started, without a word to any of them."""
    with contextlib.suppress(psutil.Error):
        for each in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
            with contextlib.suppress(psutil.Error):
                each.kill()
    process.wait()


def steps_logged(out: Path) -> int:
    """The last step in a run's log; 0 without one. A line that is being written does not count."""
    with contextlib.suppress(OSError, ValueError):
        return max(losses(out), default=0)
    return 0


def part(words: list[str], ranks: int, out: Path, stop: int, log: Path) -> int | None:
    """Train until step `stop` is in the log, then kill. Returns the status; None: killed."""
    process = launch(words, ranks, log)
    deadline = time.monotonic() + LIMIT
    while process.poll() is None:
        if steps_logged(out) >= stop or time.monotonic() > deadline:
            kill(process)
            return None
        time.sleep(0.02)
    return process.returncode


def check(folder: Path, steps: int, seed: int) -> Table:
    """The two runs."""
    table = Table(
        f"{steps} steps, killed at random", ("part", "ranks", "stage", "steps in the log", "end"), (5, 6, 6, 17, 30)
    )
    rng = random.Random(seed)
    place, tiny = Place("disk", str(folder / "set")), preset(folder, steps)
    more = ["train.save_every=3", "train.resume=auto"]
    part(training(tiny, place, folder / "whole", *more), 1, folder / "whole", steps + 1, folder / "whole.log")
    expected, out, log = losses(folder / "whole"), folder / "parts", folder / "parts.log"
    table.row("whole", 1, 1, len(expected), "-", holds=len(expected) == steps)
    for number in range(PARTS):
        ranks, stage, before = rng.choice(RANKS), rng.choice(STAGES), steps_logged(out)
        stop = before + rng.randint(1, max(2, steps // 4))
        words = training(tiny, place, out, *more, f"engine.zero_stage={stage}")
        status = part(words, ranks, out, stop, log)
        end = "killed" if status is None else f"status {status}"
        table.row(number, ranks, stage, steps_logged(out), end, holds=status in (None, 0))
        if status is not None:
            break
    got = losses(out)
    far = [step for step, pair in expected.items() if step not in got or not _close(got[step], pair)]
    table.row("all", "-", "-", len(got), f"{len(far)} losses differ {far[:5] or ''}", holds=not far)
    if far or status:
        print(log.read_text(errors="replace")[-3000:])
    return table


def _close(ours: tuple[float, float], theirs: tuple[float, float]) -> bool:
    return all(abs(a - b) <= CLOSE * abs(b) for a, b in zip(ours, theirs, strict=True))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--seed", type=int, default=0, help="other parts (0)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_set(folder / "set", [700, 900, 1111])
        index(folder / "set")
        table = check(folder, 8 if args.quick else 60, args.seed)
    finish(table)


if __name__ == "__main__":
    main()
