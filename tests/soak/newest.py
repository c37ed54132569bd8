"""The newest torch, triton and numpy: the kernels' tests, the compile gate, and a training as under the lock.

    python -m tests.soak.newest --lock .venv/bin/python       by the newest environment's Python; see `make test-newest`

Under this Python: tests/kernels, which holds the device tests in Triton's interpreter, and the gate. Under both: the
same 20 steps on the sample set, whose losses may differ by a relative 1e-5. They begin with the checkpoint of a first
step under the lock: torch's trunc_normal_ draws other numbers since some version after 2.10. The learning rate is
small: Adam's step is as large where a gradient is next to nothing, so that a last digit there grows with the rate.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.soak.common import Table, finish

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "torchvision", "triton", "numpy")
BOUND = 1e-5
LOSSES = ("loss", "loss_contrastive", "loss_distill")
STEPS = 20
RUN = (
    *("--preset", "sample", f"train.steps={STEPS + 1}", "train.global_batch=16", "train.log_every=1", "optim.lr=1e-5"),
    *("data.sample_scenes=128", "eval.after=[]"),
)
SAVED = ("train.save_every=1", f"train.keep_checkpoints={STEPS + 1}")
FIRST = Path("checkpoints", "step_00000001")
SHOWN = 3000  # characters of the output of what failed


def run(python: str, arguments: Sequence[str], **environment: str) -> tuple[bool, str, float]:
    """Whether it ended well, the end of its output, seconds."""
    start = time.monotonic()
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [python, *arguments],
        cwd=ROOT,
        env={**kept, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode == 0, done.stdout, time.monotonic() - start


def versions(python: str) -> str:
    """Raises ValueError: `python` is none, or lacks a package."""
    code = f"from importlib.metadata import version; print(*(n + ' ' + version(n) for n in {PACKAGES}), sep=', ')"
    try:
        well, said, _ = run(python, ["-c", code])
    except OSError as error:
        raise ValueError(f"{python} cannot be run ({error.strerror}); give an environment's bin/python") from None
    said = (said.strip().splitlines() or [""])[-1]
    if not well:
        raise ValueError(f"{python} lacks what is compared here ({said}); give an environment's bin/python")
    return said


def losses(python: str, folder: Path, start: Path | None = None) -> list[dict[str, float]]:
    """Of each step of the training but the first, by this Python. start: the checkpoint of the first step.

    Raises:
        RuntimeError: it did not end well, with the end of what it said.
    """
    first = SAVED if start is None else [f"train.resume={start}"]
    well, said, _ = run(python, [str(ROOT / "launch" / "train.py"), *RUN, *first, f"train.out={folder}"])
    if not well:
        raise RuntimeError(f"the training by {python} failed:\n{said[-SHOWN:]}")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if "loss" in row and row["step"] > 1]


def furthest(ours: Sequence[dict[str, float]], theirs: Sequence[dict[str, float]]) -> float:
    """The largest relative difference between the losses of two runs; infinite if their steps differ."""
    if not ours or [row["step"] for row in ours] != [row["step"] for row in theirs]:
        return float("inf")
    pairs = ((mine[name], other[name]) for mine, other in zip(ours, theirs, strict=True) for name in LOSSES)
    return max(abs(mine - other) / abs(other) for mine, other in pairs)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lock", required=True, metavar="PYTHON", help="of an environment made from requirements.txt")
    parser.add_argument("--only", choices=("tests", "gate", "training"), help="default: all three")
    args = parser.parse_args(argv)
    try:
        print(f"here: {versions(sys.executable)}\nlock: {versions(args.lock)}")
    except ValueError as error:
        parser.error(str(error))
    table = Table("under the newest versions", ("check", "found"), (10, 64))
    for name, command in (
        ("tests", ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/kernels"]),
        ("gate", ["-m", "silc_kernels.gate"]),
    ):
        if args.only in (None, name):
            well, said, _ = run(sys.executable, command)
            table.row(name, (said.strip().splitlines() or [""])[-1][:64], holds=well)
            if not well:
                print(said[-SHOWN:], flush=True)
    if args.only in (None, "training"):
        with tempfile.TemporaryDirectory(prefix="silc-newest-") as folder:
            lock = losses(args.lock, Path(folder, "lock"))
            here = losses(sys.executable, Path(folder, "here"), Path(folder, "lock") / FIRST)
        found = furthest(here, lock)
        words = f"{len(here)} steps, losses differ by {found:.1e} at most ({BOUND:.0e} allowed)"
        table.row("training", words, holds=len(here) == STEPS and found <= BOUND)
    finish(table)


if __name__ == "__main__":
    main()
