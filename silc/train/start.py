"""From a configuration to a trainer that stands before its first step.

In this order: the checkpoint to resume from (:func:`find_resumed`), or else the weights to begin with
(:func:`silc.train.init.find_initial`); then, in :func:`start`, the data, the state, the run folder. First what a
mistake in a checkpoint or the data shows, then what takes time, last what leaves traces.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from silc import config_io
from silc.config import Config
from silc.config_rules import check_locked_weights, has_evaluation_data
from silc.data import build_loader
from silc.distributed import World, broadcast_object, of_first
from silc.errors import NothingLeft
from silc.evaluate.results import read_results
from silc.model.silc import build
from silc.text import plural
from silc.train import checkpoint
from silc.train.banner import banner
from silc.train.init import Initial
from silc.train.loop import Trainer
from silc.train.own_tokenizer import check_there
from silc.train.run_folder import open_folder
from silc.train.same_data import check_same_data, check_same_everywhere
from silc.train.same_run import Changes, check_distillation, check_same_run, notes, trained_config
from silc.train.sources import open_everywhere, together
from silc.train.state import TrainState, build_state


class Resumed(NamedTuple):
    """A checkpoint to continue from.

    saved: its `trainer.pt`, see :func:`silc.train.checkpoint.load_trainer`; config: what it was trained with; changes:
    settings of this run that differ and change what follows.
    """

    path: Path
    saved: dict[str, Any]
    config: Config
    changes: Changes


def start(
    config: Config,
    world: World,
    shards: list[str] | None,
    folder: Path,
    resumed: Resumed | None,
    initial: Initial | None = None,
) -> Trainer:
    """A trainer (collective; the arguments are the same on every rank).

    shards: to train on, in place of those that the configuration names.
    resumed: of :func:`find_resumed`.
    initial: of :func:`silc.train.init.find_initial`; without an effect beside `resumed`.

    Raises ValueError for what cannot be read, resumed or written.
    """
    data = open_everywhere(config, shards)
    loader = together(
        lambda: build_loader(
            config,
            rank=world.rank,
            world=world.size,
            start_position=0 if resumed is None else resumed.saved["counters"]["position"],
            local_from_position=config.distill_start_step * config.train.global_batch,
            data=data,
            device=world.device,
        )
    )
    check_same_everywhere(loader.data)
    if resumed is not None:
        note = check_same_data(resumed.saved.get("data"), loader.data, resumed.path, allowed=config.data.allow_changed)
        if world.main and note:
            print(note, flush=True)
    state = begun(config, world, initial) if resumed is None else _restored(config, world, resumed)
    state.data = loader.data
    finished = resumed if state.counters.step >= config.train.steps else None
    kept = config if finished is None else trained_config(finished.config, config)
    log = open_folder(kept, state, folder, finished=finished is not None)
    if world.main:
        print(banner(config, state, folder), flush=True)
    if finished is not None:
        return Trainer(kept, state, loader, folder, log, finished.path, finished=True)
    if resumed is None:
        if initial is not None and log is not None:
            log.with_next(initial.record())
        return Trainer(config, state, loader, folder, log)
    newest = of_first(lambda: _is_newest(resumed.path, folder))
    trainer = Trainer(config, state, loader, folder, log, resumed.path, newest)
    if resumed.changes:
        trainer.measure_anew()
        if log is not None:
            log.with_next({"resumed": resumed.changes})
    return trainer


def _is_newest(path: Path, folder: Path) -> bool:
    """Whether train.resume=auto would go on from this checkpoint: else the run goes back, or on in another folder."""
    found = checkpoint.whole(folder / "checkpoints")
    return bool(found) and found[-1].resolve() == path.resolve()


def begun(config: Config, world: World, initial: Initial | None) -> TrainState:
    """The state at step 0, with first weights or those that were found (collective)."""
    if initial is None:
        return build_state(config, world)
    state = build_state(config, world, initial.student(config), exactly=True)
    initial.put_scale(state.scale)
    return state


def _restored(config: Config, world: World, resumed: Resumed) -> TrainState:
    """The state of a checkpoint, whatever ranks wrote it (collective). Raises ValueError where it is damaged."""
    weights = checkpoint.load_weights(resumed.path, "student")
    student = build(config)
    try:
        student.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"{resumed.path}: student.safetensors does not fit the model ({str(error)[:300]}); take an older checkpoint"
        ) from None
    state = build_state(config, world, student)
    checkpoint.restore(resumed.path, resumed.saved, state, weights)
    if world.main:
        ranks = resumed.saved["world_size"]
        other = "" if ranks == world.size else f", written by {plural(ranks, 'rank')}, on {plural(world.size, 'rank')}"
        said = f"resumed from {resumed.path} at step {state.counters.step}{other}"
        print("\n".join([said, *notes(resumed.changes, resumed.config, config, state.counters.step)]), flush=True)
    return state


def find_resumed(config: Config, world: World, folder: Path) -> Resumed | None:
    """The checkpoint that `train.resume` asks for; None for a run that starts anew (collective).

    Raises ValueError for one that cannot be read, is of another run, or after which nothing is left to do, and
    NothingLeft where that was to be found out (auto). Also for a tower that is locked, where the run begins anew and
    without train.init.
    """
    wanted = config.train.resume
    if wanted is None:
        return None
    path = checkpoint.newest(folder) if wanted == "auto" else checkpoint.sought(wanted)
    if path is None:
        check_locked_weights(config)
        if world.main:
            print(f"train.resume=auto: {folder} has no checkpoint yet, the run starts at step 0", flush=True)
        return None
    saved = checkpoint.load_trainer(path, world.device)
    trained = checkpoint.load_config(path)
    together(lambda: check_there(config, path))
    changes = check_same_run(trained, config, path)
    step = saved["counters"]["step"]
    if broadcast_object(nothing_left(config, step, path, folder)):
        if wanted == "auto" and step == config.train.steps:  # a command that is given until it ends well
            raise NothingLeft(
                f"{folder} is finished, at step {step} of {step}; give a larger train.steps to train on", folder
            )
        raise ValueError(
            f"cannot resume from {path}: already at step {step} of {config.train.steps}; give a larger train.steps"
        )
    check_distillation(trained, config, step, path)
    return Resumed(path, saved, trained, changes)


def nothing_left(config: Config, step: int, path: Path, folder: Path) -> bool:
    """Whether a run that stands at `step` has all its steps, and its last evaluation if it has one.

    A run that ended in its last evaluation, or that is to be evaluated by other rules, is exported and evaluated again
    without being trained.
    """
    if step != config.train.steps or not path.resolve().is_relative_to(folder.resolve()):
        return step >= config.train.steps
    if not config.eval.after or not has_evaluation_data(config):
        return (folder / "open_clip").exists()
    found = read_results(folder)
    if found is None or (found.step, found.options) != (step, config_io.to_dict(config)["eval"]):
        return False
    return all(result["error"] is None for result in found.results)
