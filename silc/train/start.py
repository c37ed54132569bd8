"""From a configuration to a trainer that stands before its first step.

In this order: the checkpoint to resume from, the data, the state, the run folder. First what a mistake in a checkpoint
or the data shows, then what takes time, last what leaves traces.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from silc import config_io
from silc.config import Config
from silc.data import build_loader
from silc.distributed import World
from silc.train import checkpoint
from silc.train.banner import banner
from silc.train.loop import Trainer
from silc.train.metrics import MetricLog
from silc.train.same_run import check_same_run
from silc.train.state import TrainState, build_state


def start(config: Config, world: World, shards: list[str], folder: Path) -> Trainer:
    """A trainer for `shards`, resumed where `train.resume` says so (collective; the arguments are the same on every
    rank).

    Raises ValueError for what cannot be read, resumed or written.
    """
    resumed, saved = _resumed(config, world, folder)
    loader = build_loader(
        config,
        rank=world.rank,
        world=world.size,
        start_position=saved["counters"]["position"] if resumed else 0,
        local_from_position=config.distill_start_step * config.train.global_batch,
        shards=shards,
    )
    state = build_state(config, world)
    if resumed is not None:
        checkpoint.restore(resumed, saved, state)
        if world.main:
            print(f"resumed from {resumed} at step {state.counters.step}", flush=True)
    log = open_folder(config, state, folder)
    if world.main:
        print(banner(config, state, folder), flush=True)
    return Trainer(config, state, loader, folder, log)


def _resumed(config: Config, world: World, folder: Path) -> tuple[Path | None, dict[str, Any]]:
    """The checkpoint to continue from and its `trainer.pt`; None for a run that starts anew."""
    wanted = config.train.resume
    if wanted is None:
        return None, {}
    path = checkpoint.newest(folder) if wanted == "auto" else checkpoint.find(wanted)
    if path is None:
        return None, {}
    saved = checkpoint.load_trainer(path, world.size, world.device)
    warning = check_same_run(checkpoint.load_config(path), config, path)
    if warning is not None and world.main:
        print(warning, flush=True)
    return path, saved


def open_folder(config: Config, state: TrainState, folder: Path) -> MetricLog | None:
    """The run folder with its first files, and its log; None on all ranks but the main one. Raises ValueError."""
    if not state.world.main:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(config_io.to_yaml(config), encoding="utf-8")
        (folder / "deepspeed.json").write_text(json.dumps(state.engine.json, indent=1), encoding="utf-8")
        return MetricLog(config, folder, state.counters.step)
    except OSError as error:
        raise ValueError(
            f"the run folder {folder} cannot be written: {error.strerror}; take another train.out"
        ) from None
