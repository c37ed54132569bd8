"""Training through servers that fail: the same order and the same losses as from a disk, or a clean end.

    python -m tests.soak.faults [--quick]

1. Batches of two passes from an S3 and an HTTP server that drop 5 % of the answers, stall in 2 % and answer 5 % with
   503: digests of every batch as from the disk.
2. A training through each: every loss as from the disk, to the last bit.
3. A server that dies for good in the middle of a training: after data.store_minutes the run ends, names a shard, writes
   no traceback and leaves a checkpoint; resumed when the server is back, it has the losses of a run that never stopped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from tests.soak.common import BATCH, Table, finish, write_set
from tests.soak.order import Reading, elsewhere
from tests.soak.served import Place, environment_of, index, places, run
from tests.storage.servers import Faults

FAULTS = Faults(drop=0.05, stall=0.02, error=0.05, stalled=5.0)
PRESET = """
model:
  vision: {image_size: 16, patch_size: 8, width: 32, depth: 1, heads: 2}
  text: {context_length: 8, width: 32, depth: 1, heads: 2}
  head: {prototypes: 64, hidden: 64, bottleneck: 16}
views: {n_global: 2, n_local: 2, global_size: 16, local_size: 8}
objective: {ema_momentum: 0.9}
data: {workers: 2, shuffle_block: 480}
optim: {warmup_steps: 2, cooldown_steps: 0}
eval: {after: [], report: false, contact_sheet: false}
"""


def preset(folder: Path, steps: int) -> Path:
    """A model so small that reading takes most of the time."""
    path = folder / "tiny.yaml"
    train = f"train: {{steps: {steps}, global_batch: {BATCH}, log_every: 1, save_every: 0, tensorboard: false}}"
    path.write_text(f"{PRESET}{train}\n")
    return path


def training(tiny: Path, place: Place, out: Path, *more: str) -> list[str]:
    """Words of a run after the interpreter."""
    return ["launch/train.py", "--preset", str(tiny), f"data.shards=[{place.shards}]", f"train.out={out}", *more]


def losses(out: Path) -> dict[int, tuple[float, float]]:
    """Step -> the two losses, as a run has logged them; the rows after a resumption hold."""
    rows: list[dict[str, Any]] = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: (row["loss_contrastive"], row["loss_distill"]) for row in rows if "loss_contrastive" in row}


def faults_of(place: Place) -> str:
    """What a server did wrong so far."""
    if place.server is None:
        return "-"
    counts = place.server.counts
    return f"{counts['GET']} GETs, " + ", ".join(f"{counts[kind]} {kind}" for kind in ("drop", "stall", "error"))


def check_order(found: list[Place], batches: int) -> Table:
    """Part 1."""
    table = Table(f"order of {batches} batches", ("place", "faults", "differing batches"), (6, 44, 18))
    expected: list[str] = []
    for place in found:
        reading = Reading(place.shards, 1, 2, "auto", [(0, batches)])
        (got,) = elsewhere(reading, place.environment)
        expected = expected or got
        differing = sum(one != other for one, other in zip(got, expected, strict=True))
        table.row(place.name, faults_of(place), differing, holds=not differing and _met(place))
    return table


def _met(place: Place) -> bool:
    """Whether a server that shall fail did: else nothing was tried."""
    return place.server is None or all(place.server.counts[kind] for kind in ("drop", "stall", "error"))


def check_losses(folder: Path, found: list[Place], steps: int) -> tuple[Table, dict[int, tuple[float, float]]]:
    """Part 2; and the losses from the disk."""
    table = Table(f"losses of {steps} steps", ("place", "faults so far", "differing steps"), (6, 44, 16))
    tiny, expected = preset(folder, steps), {}
    for place in found:
        out = folder / f"run_{place.name}"
        done = run(*training(tiny, place, out), environment=place.environment)
        if done.returncode:
            table.row(place.name, faults_of(place), done.stderr[-300:], holds=False)
            continue
        got = losses(out)
        expected = expected or got
        differing = sum(got.get(step) != pair for step, pair in expected.items())
        table.row(place.name, faults_of(place), differing, holds=not differing and len(got) == steps)
    return table, expected


def check_death(folder: Path, found: list[Place], expected: dict[int, tuple[float, float]], steps: int) -> Table:
    """Part 3."""
    table = Table("a server that dies for good", ("place", "what", "seen"), (6, 34, 60))
    tiny = preset(folder, steps)
    for place in found:
        if place.server is None:
            continue
        out = folder / f"death_{place.name}"
        status, said = _dies(training(tiny, place, out, "data.store_minutes=0.1"), place, out, steps // 3)
        last = next((line for line in reversed(said.splitlines()) if line.strip()), "")
        table.row(place.name, "ends with an error", status, holds=status not in (0, None))
        table.row(
            place.name, "names a shard, no traceback", last[-60:], holds=".tar" in said and "Traceback" not in said
        )
        done = len(losses(out))
        saved = sorted(path.name for path in out.glob("*checkpoint*")) + sorted(p.name for p in out.glob("step*"))
        table.row(
            place.name, "leaves a checkpoint", f"{done} steps; {' '.join(saved)}", holds=bool(saved) and done < steps
        )
        place.server.revive()
        again = run(*training(tiny, place, out, "train.resume=auto"), environment=place.environment)
        differing = sum(losses(out).get(step) != pair for step, pair in expected.items())
        seen = f"status {again.returncode}, {differing} losses differ"
        table.row(place.name, "goes on when the server is back", seen, holds=not again.returncode and not differing)
    return table


def _dies(words: list[str], place: Place, out: Path, after: int) -> tuple[int | None, str]:
    """Run a training whose server dies after some steps: its status, None if it had to be ended, and its errors."""
    errors = out.with_suffix(".errors")
    with errors.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, env=environment_of(place.environment), stdout=file, stderr=file
        )
        log = out / "metrics.jsonl"
        while process.poll() is None and not (log.exists() and log.read_text().count("\n") >= after):
            time.sleep(0.05)
        assert place.server is not None
        place.server.die()
        try:
            status: int | None = process.wait(300)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            status = None
    return status, errors.read_text()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer batches and steps, to see that it runs")
    args = parser.parse_args(argv)
    counts, batches, steps = ([700, 900], 20, 12) if args.quick else ([3000, 4100, 2500, 3777], 220, 120)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_set(folder / "set", counts)
        index(folder / "set")
        with places(folder / "set", FAULTS) as found:
            tables = [check_order(found, batches)]
            table, expected = check_losses(folder, found, steps)
            tables += [table, check_death(folder, found, expected, steps)]
    finish(*tables)


if __name__ == "__main__":
    main()
