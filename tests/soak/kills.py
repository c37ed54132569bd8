"""Trainings that are killed again and again, a third of the times in a save, and end bit for bit as if they had not.

    python -m tests.soak.kills [--kills 200] [--seed N]

For 1 and 2 ranks in ZeRO stages 1 and 3: a run in one go; then runs of the same settings that are ended by SIGKILL, of
one rank or of all, at random moments of the start, the steps and the saves (into a folder, or beside the steps), and go
on with train.resume=auto until they are done. Masters, moments, teacher, center, scale, counters and the logged losses
are those of the run in one go, to the last bit; no start goes back behind the one before.

The ranks are forks of one process that has imported everything, so that a part takes a second or two.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import multiprocessing
import os
import random
import re
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from silc.ports import free_port
from tests.soak.common import Table, finish, write_set
from tests.soak.faults import losses, preset

STEPS, SAVE_EVERY = 24, 3
KINDS = ((1, 1), (1, 3), (2, 1), (2, 3))  # ranks, ZeRO stage
LIMIT = 300  # seconds that a part may take
SPAN = 3.0  # seconds from the first sign of a run within which a kill at a random moment falls
IN_A_SAVE = 0.05  # seconds: about as long as a save of this model takes


def rank(number: int, ranks: int, port: int, words: list[str], log: Path) -> None:
    """One rank of a training, in a process of its own."""
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    job = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in job.items()})
    from silc.commands.train import main

    status = main(words)
    sys.stdout.flush()
    os._exit(status)  # as fast as a process can end


@dataclass
class Job:
    """A training: its ranks."""

    processes: list[BaseProcess]

    @classmethod
    def start(cls, context: Any, ranks: int, words: list[str], log: Path) -> Job:
        """Start the ranks."""
        port = free_port()
        found = [context.Process(target=rank, args=(number, ranks, port, words, log)) for number in range(ranks)]
        for process in found:
            process.start()
        return cls(found)

    def alive(self) -> bool:
        """Whether all ranks run."""
        return all(process.exitcode is None for process in self.processes)

    def kill(self, which: list[int]) -> None:
        """SIGKILL some ranks; then, as a launcher does, the others."""
        for number in (*which, *range(len(self.processes))):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.processes[number].pid or 0, signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        """The largest status of the ranks; a rank that does not end is killed after a while."""
        deadline = time.monotonic() + LIMIT
        for process in self.processes:
            process.join(max(0.1, deadline - time.monotonic()))
            if process.exitcode is None:
                process.kill()
                process.join()
        return max(abs(process.exitcode or 0) for process in self.processes)


@dataclass
class Kill:
    """A kill, and what was seen."""

    in_a_save: bool
    ranks: list[int]
    step: int = 0
    where: str = "in the start"


@dataclass
class Series:
    """Runs of one kind under kills."""

    folder: Path
    ranks: int
    stage: int
    context: Any
    rng: random.Random
    kills: list[Kill] = field(default_factory=list)

    def words(self, out: Path) -> list[str]:
        """Of a training."""
        tiny = preset(self.folder, STEPS)
        keys = [f"data.shards=[{self.folder / 'set'}]", f"train.out={out}", f"engine.zero_stage={self.stage}"]
        keys += ["train.resume=auto", f"train.save_every={SAVE_EVERY}", "data.workers=0", "train.global_batch=24"]
        background = f"train.save_in_background={self.rng.choice(['true', 'false'])}"
        return ["--preset", str(tiny), *keys, background, f"train.keep_checkpoints={self.rng.choice([1, 2])}"]

    def run(self, out: Path, most: int) -> int:
        """One run, killed at most so many times. Returns the status of its last part."""
        while True:
            log = out.with_suffix(".log")
            job = Job.start(self.context, self.ranks, self.words(out), log)
            if most <= 0 or not self.strike(job, out):
                return job.wait()
            most -= 1

    def strike(self, job: Job, out: Path) -> bool:
        """Kill a job at a moment drawn at random. False: it ended before."""
        which = [self.rng.randrange(self.ranks)] if self.rng.random() < 0.5 else list(range(self.ranks))
        kill = Kill(self.rng.random() < 0.5, which)
        folder, deadline = out / "checkpoints", time.monotonic() + LIMIT
        if kill.in_a_save:
            skipped = self.rng.randrange(3)  # saves that pass
            while skipped >= 0 and job.alive() and time.monotonic() < deadline:
                if _drafts(folder):
                    skipped -= 1
                    if skipped >= 0:
                        while _drafts(folder) and job.alive():
                            time.sleep(0.0005)
                time.sleep(0.0005)
            time.sleep(self.rng.random() * IN_A_SAVE)
        else:
            ends = time.monotonic() + self.rng.random() * SPAN
            while time.monotonic() < ends and job.alive():
                time.sleep(0.001)
        if not job.alive():
            return False
        job.kill(which)
        kill.in_a_save = bool(_drafts(folder))
        kill.step = max(_logged(out), default=0)
        kill.where = "in a save" if kill.in_a_save else "in a step" if kill.step else "in the start"
        self.kills.append(kill)
        return True


def _drafts(folder: Path) -> list[str]:
    """What is being written or replaced."""
    with contextlib.suppress(OSError):
        return [name for name in os.listdir(folder) if name.endswith((".tmp", ".old"))]
    return []


def _logged(out: Path) -> dict[int, tuple[float, float]]:
    with contextlib.suppress(OSError, ValueError):
        return losses(out)
    return {}


def digest(out: Path) -> dict[str, str]:
    """A hash of everything that the last checkpoint of a run holds, the time it took left out."""
    import torch
    from safetensors import safe_open

    path, found = out / "checkpoints" / f"step_{STEPS:08d}", {}
    for file in path.rglob("*.safetensors"):
        with safe_open(file, "numpy") as held:  # whose metadata stand in any order
            parts = [f"{name} {hashlib.sha256(held.get_tensor(name)).hexdigest()}" for name in sorted(held.keys())]
            found[str(file.relative_to(path))] = f"{sorted((held.metadata() or {}).items())} {' '.join(parts)}"
    trainer = torch.load(path / "trainer.pt", weights_only=True)
    trainer["counters"].pop("seconds")
    return found | {"trainer.pt": repr(trainer)}


def check(folder: Path, ranks: int, stage: int, kills: int, seed: int, table: Table) -> None:
    """A row of `table`: as many kills as asked for, over as many runs as they need."""
    context = multiprocessing.get_context("forkserver")
    series = Series(folder, ranks, stage, context, random.Random(seed))
    whole = folder / f"whole_{ranks}_{stage}"
    status = series.run(whole, 0)
    assert status == 0, whole.with_suffix(".log").read_text()[-3000:]
    wrong, runs = [], 0
    while len(series.kills) < kills and not wrong:
        out = folder / f"run_{ranks}_{stage}_{runs}"
        runs += 1
        status = series.run(out, kills - len(series.kills))
        wrong = differences(whole, out, status)
    inside = sum(kill.in_a_save for kill in series.kills)
    alone = sum(len(kill.ranks) < ranks for kill in series.kills)
    early = sum(not kill.step and not kill.in_a_save for kill in series.kills)
    counts = f"{len(series.kills)} kills in {runs} runs: {inside} in a save, {early} before a step, {alone} of one rank"
    table.row(ranks, stage, counts, "; ".join(wrong) or "0 bits differ", holds=not wrong and 3 * inside >= kills)


def differences(whole: Path, out: Path, status: int) -> list[str]:
    """Between a run in one go and one that was killed, in words."""
    said = out.with_suffix(".log").read_text(errors="replace")
    if status:
        return [f"status {status}: {said[-500:]}"]
    a, b = digest(whole), digest(out)
    wrong = [f"{name} differs" for name in a if a[name] != b.get(name)]
    wrong += [] if a.keys() == b.keys() else ["other files"]
    wrong += [] if losses(whole) == losses(out) else ["losses differ"]
    began = [int(step) for step in re.findall(r"resumed from \S+ at step (\d+)", said)]
    wrong += [] if began == sorted(began) else [f"went back: {began}"]
    if began and said.rfind("has no checkpoint yet") > said.index("resumed from"):
        wrong.append("began at step 0 after a checkpoint was there")
    return wrong + (["a traceback"] if "Traceback" in said else [])


def prepare(folder: Path) -> None:
    """The shards, with their index; and a process to fork from."""
    write_set(folder / "set", [150, 170])
    multiprocessing.get_context("forkserver").set_forkserver_preload(
        ["silc.train.run", "silc.commands.train", "deepspeed", "torch._dynamo"]
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="in all (200)")
    kinds = " ".join(f"{ranks},{stage}" for ranks, stage in KINDS)
    parser.add_argument("--kinds", nargs="+", default=kinds.split(), metavar="RANKS,STAGE", help=f"({kinds})")
    parser.add_argument("--seed", type=int, default=0, help="other moments (0)")
    args = parser.parse_args(argv)
    os.environ |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        table = Table(
            f"{args.kills} kills, {STEPS} steps a run, a save every {SAVE_EVERY}",
            ("ranks", "stage", "kills", "end"),
            (5, 5, 84, 30),
        )
        for number, kind in enumerate(args.kinds):
            ranks, stage = map(int, kind.split(","))
            check(folder, ranks, stage, args.kills // len(args.kinds), args.seed + number, table)
    finish(table)


if __name__ == "__main__":
    main()
