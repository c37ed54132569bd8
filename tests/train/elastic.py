"""A run that goes on at other numbers of ranks and in other ZeRO stages: `deepspeed elastic.py FOLDER PHASE`.

Each phase trains on real shards to a step, is stopped there by a signal, and leaves the keys and losses of its steps in
FOLDER/PHASE.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch: the launcher numbers devices that this test must not use

import signal
from pathlib import Path
from typing import Any, NamedTuple

import torch

from silc.config import Config, DataConfig
from silc.data.batch import Batch
from silc.distributed import World, all_gather_objects, barrier, init
from silc.errors import RunInterrupted
from silc.train import state
from silc.train.loop import Trainer
from silc.train.start import find_resumed, start
from silc.train.step import StepReport
from tests.train import cases
from tests.train.resume import BPE, write_shards
from tests.train.runs import state_of

STEPS, BATCH = 20, 12  # a batch for 1, 2 and 3 ranks


class Phase(NamedTuple):
    """Ranks, ZeRO stage, the folder of the run, and the step after which it is stopped."""

    ranks: int
    stage: int
    run: str
    until: int


PHASES = {
    "whole": Phase(2, 1, "whole", STEPS),
    "first": Phase(2, 1, "parts", 7),
    "second": Phase(1, 3, "parts", 13),
    "third": Phase(3, 2, "parts", STEPS),
}


def config(folder: Path, phase: Phase) -> Config:
    """Of a phase; all of them save at the end only, or when they are stopped."""
    run = cases.config(stage=phase.stage, steps=STEPS, vocabulary=BPE, save_every=0)
    run.data = DataConfig(shards=[str(folder / "shards")], workers=0, shuffle_block=24)
    run.train.global_batch = BATCH
    run.train.out, run.train.resume = str(folder / phase.run), "auto"
    return run


def train(run: Config, world: World, phase: Phase) -> dict[str, Any]:
    """Keys of each step, over all ranks in order, and the losses."""
    folder = Path(run.train.out)
    trainer = start(run, world, None, folder, find_resumed(run, world, folder))
    found: dict[str, Any] = {"resumed": trainer.state.counters.step, "keys": {}}
    if found["resumed"]:
        found["started"] = _digest(trainer)
    inner = trainer.step

    def step(batch: Batch, **words: Any) -> StepReport:
        number = trainer.state.counters.step + 1
        found["keys"][number] = [key for keys in all_gather_objects(batch.keys) for key in keys]
        if number == phase.until and world.rank == world.size - 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        return inner(batch, **words)

    trainer.step = step
    try:
        trainer.run()
    except RunInterrupted as stop:
        found["stopped"] = str(stop)
        found["state"] = _digest(trainer)
    trainer.close()
    barrier()
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return found | {"losses": {row["step"]: [row["loss_contrastive"], row["loss_distill"]] for row in rows}}


def _digest(trainer: Trainer) -> dict[str, str]:
    """A hash of the bytes of each tensor of the state."""
    whole = {name: value.detach().cpu().contiguous() for name, value in state_of(trainer).items()}
    return {name: hashlib.sha256(value.numpy().tobytes()).hexdigest() for name, value in whole.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("phase")
    parser.add_argument("--local_rank", type=int)  # from the launcher
    args = parser.parse_args()
    torch.set_num_threads(1)
    state.build = cases.first_model
    world = init(timeout_minutes=2)
    if world.main and not (args.folder / "shards").exists():
        write_shards(args.folder / "shards")
    barrier()
    phase = PHASES[args.phase]
    found = train(config(args.folder, phase), world, phase)
    if world.main:
        (args.folder / f"{args.phase}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
