"""A run in one go and the same run in two. Called in the processes that the launcher started."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import webdataset as wds

from silc.config import Config, DataConfig
from silc.distributed import World, barrier
from silc.train.loop import Trainer
from silc.train.start import find_resumed, start
from tests.train import cases
from tests.train.runs import state_of

STEPS = 6
HALF = 3
SAMPLES = 40  # not a multiple of the batch, and less than a run: a batch crosses the border of two passes
BPE = 49408


def resumed(
    world: World, folder: Path, *, stage: int, precision: str = "fp32", objective: str = "softmax"
) -> dict[str, Any]:
    """Both runs' last states, and the words that refuse a changed model."""
    shards, folder = folder / "shards", folder / f"{objective}-{precision}"
    if world.main and not shards.exists():
        write_shards(shards)
    barrier()
    run = cases.config(objective, stage=stage, steps=STEPS, vocabulary=BPE, save_every=HALF, precision=precision)
    run.data = DataConfig(shards=[str(shards)], workers=0, shuffle_block=16)
    whole = _trainer(run, world, folder / "whole")
    whole.run()
    saved = folder / "whole" / "checkpoints" / f"step_{HALF:08d}"
    run.train.resume = str(saved)
    second = _trainer(run, world, folder / "second")
    started = vars(second.state.counters).copy()
    second.run()
    findings = {"whole": state_of(whole), "second": state_of(second), "started": started, "saved": str(saved)}
    findings |= {"counters": [vars(trainer.state.counters) for trainer in (whole, second)]}
    for trainer in (whole, second):
        trainer.close()
    findings |= {"finished": _finished(run, world, folder / "whole", saved)}
    return findings | {"refused": _refusal(run, world, folder / "refused")}


def _finished(run: Config, world: World, folder: Path, saved: Path) -> dict[str, Any]:
    """The checkpoint of half the steps resumed with as many steps and another rate: what that changes in its files."""
    run = replace(run, train=replace(run.train, steps=HALF), optim=replace(run.optim, lr=0.5))
    before = {path: path.read_bytes() for path in _files(folder)}
    barrier()
    trainer = _trainer(run, world, folder)
    counters = trainer.run()
    path = trainer.saved()
    trainer.close()
    barrier()
    after = {path: path.read_bytes() for path in _files(folder)}
    changed = [str(path.relative_to(folder)) for path in after if after[path] != before.get(path)]
    return {"step": counters.step, "path": str(path), "changed": changed, "lr": trainer.config.optim.lr}


def _files(folder: Path) -> list[Path]:
    """Of the checkpoints, and the configurations."""
    return [*(path for path in (folder / "checkpoints").rglob("*") if path.is_file()), *folder.glob("*.yaml")]


def _trainer(run: Config, world: World, folder: Path) -> Trainer:
    return start(run, world, run.data.shards, folder, find_resumed(run, world, folder))


def _refusal(run: Config, world: World, folder: Path) -> str:
    """The message for a changed model."""
    run.objective = replace(run.objective)
    run.model.vision = replace(run.model.vision, mlp_ratio=2.0)
    try:
        _trainer(run, world, folder)
    except ValueError as error:
        return str(error)
    return ""


def write_shards(folder: Path) -> None:
    """Two shards of random images."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for shard in range(2):
        with wds.TarWriter(str(folder / f"{shard}.tar")) as writer:
            for number in range(SAMPLES // 2):
                pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
                writer.write({"__key__": f"{number:04}", "png": pixels, "txt": f"thing {shard} {number}"})
