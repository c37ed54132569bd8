"""A run from start to finish: join the job, find the data, train, save, export, evaluate.

:func:`train` answers a command with an exit status; :func:`run` answers a caller in Python, and raises.
"""

from __future__ import annotations

import errno
import itertools
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from silc.config import Config
from silc.config_rules import validate
from silc.data.sample_set.cache import default_root
from silc.distributed import barrier, broadcast_object, init
from silc.errors import STOPPED_BY_SIGNAL, RunInterrupted, RunStopped, defer_to_first_rank
from silc.evaluate import runner
from silc.evaluate.datasets import EvalData
from silc.evaluate.report import examples, output
from silc.evaluate.towers import Towers
from silc.text import plural
from silc.train import checkpoint, evaluation, peers, sources
from silc.train.banner import backend_lines, no_evaluation
from silc.train.engine import precision
from silc.train.loop import Trainer
from silc.train.metrics import check_loggers
from silc.train.start import find_resumed, start


@peers.answered("silc train")
def train(config: Config) -> int:
    """Exit status: 0 trained, 1 ended early, 2 a user's mistake, 75 stopped by a signal after a checkpoint.

    Messages go to the terminal. Mistakes are found before training starts, and before the run folder is made.
    """
    try:
        trainer, data = _prepare(config)
    except ValueError as error:
        defer_to_first_rank()
        print(f"silc train: {error}", file=sys.stderr)
        return 2
    try:
        _finish(trainer, data, sys.argv)
    except RunInterrupted as stop:
        if trainer.world.main:
            print(f"stopped by {stop}", flush=True)
        barrier()  # the launcher ends all ranks when the first one has left with this status
        return STOPPED_BY_SIGNAL
    except RunStopped as error:
        defer_to_first_rank()
        print(f"silc train: {error}", file=sys.stderr)
        return 1
    return 0


@peers.in_words()
def run(config: Config, command: Sequence[str]) -> Path:
    """Train, save, export and evaluate as :func:`train` does, for callers in Python. Returns the run folder.

    command: the words of a command that does the same; the report shows it.

    Raises:
        ValueError: a mistake in the configuration or the data, before training starts and anything is written.
        RunStopped: training, or the last evaluation, could not be finished; the message says why and what to do.
        RunInterrupted: a signal asked for the end; a checkpoint is written.
    """
    trainer, data = _prepare(config)
    _finish(trainer, data, command)
    return trainer.folder


def _prepare(config: Config) -> tuple[Trainer, EvalData | None]:
    """Everything up to the first step. Raises ValueError for what can be known to fail."""
    _quiet()
    check_loggers(config)
    world = init(config.engine.timeout_minutes)
    peers.watch(world, config.engine.silent_minutes)
    validate(config, world.size)
    backend_lines(config, world.device, precision(config, world.device))  # refuses a backend that cannot run here
    folder = _run_folder(config)
    resumed = find_resumed(config, world, folder)  # before the sample set is rendered
    shards, data = sources.resolve(config, world, default_root())
    return start(config, world, shards, folder, resumed), data


def _finish(trainer: Trainer, data: EvalData | None, command: Sequence[str]) -> None:
    """Everything from the first step on. Raises RunStopped or RunInterrupted."""
    try:
        path = _train(trainer, data)
        _export(trainer, path)
        if data is not None:
            _evaluate_last(trainer, data, command)
        elif trainer.world.main:
            print("\n".join(no_evaluation(trainer.config)), flush=True)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RunStopped(
            f"the run folder {trainer.folder} cannot be written: {error.strerror}; make room on its disk"
        ) from error
    finally:
        trainer.close()


def _train(trainer: Trainer, data: EvalData | None) -> Path:
    """The last checkpoint."""
    started, batch = time.perf_counter(), trainer.config.train.global_batch
    counters = trainer.run(None if data is None else lambda: evaluation.on_the_way(trainer, data))
    path = trainer.saved()
    assert path is not None, "train.steps is positive"
    if trainer.world.main:
        minutes = (time.perf_counter() - started) / 60
        print(
            f"trained {plural(counters.step, 'step')}, {plural(counters.step * batch, 'pair')}, in {minutes:.1f} min; "
            f"checkpoint {path}",
            flush=True,
        )
    return path


def _export(trainer: Trainer, path: Path) -> None:
    """The student as an open_clip model beside the checkpoints (main rank)."""
    if trainer.world.main:
        out = trainer.folder / "open_clip"
        call = checkpoint.export_open_clip(path, out)
        print(f"student for open_clip: {call}", flush=True)
    barrier()


def _evaluate_last(trainer: Trainer, data: EvalData, command: Sequence[str]) -> None:
    """Raises RunStopped for whatever goes wrong: the training is done, its checkpoint and export are whole."""
    try:
        results = evaluation.measure(trainer, data, trainer.config.eval.after)
        if trainer.world.main:
            _show(trainer, data, *results, command)
        barrier()
        if broken := [result for result in results[1] if result.broken]:
            raise RuntimeError(f"{broken[0].task}, {broken[0].model}: {broken[0].error}")
    except Exception as error:
        if peers.is_of_connection(error):
            raise
        traceback.print_exc()
        raise RunStopped(
            f"the last evaluation failed ({error}); the run is trained, saved and exported. Measure it again with: "
            f"silc evaluate {trainer.folder}"
        ) from error


def _show(
    trainer: Trainer, data: EvalData, models: list[Towers], results: list[runner.Result], command: Sequence[str]
) -> None:
    """The contact sheet and the report (main rank)."""
    config, folder, step = trainer.config, trainer.folder, trainer.state.counters.step
    if config.eval.contact_sheet:
        title = f"{folder}, step {step}: held-out images and what is closest"
        try:
            if output.sheet(config, models[0], data, title, folder / "held_out.png"):
                print(f"held-out images with their top captions: {folder / 'held_out.png'}", flush=True)
        except examples.FAILURES as error:
            print(f"no sheet of held-out images was made: {error}", flush=True)
    if config.eval.report:
        title = f"SILC: {folder}, step {step}"
        path = output.report(config, models, data, results, title, run=folder, folder=folder, argv=command)
        print(f"report: {path}", flush=True)


def _run_folder(config: Config) -> Path:
    """`train.out`, or the first free one of runs/PRESET, runs/PRESET-2, ...; with resume=auto the newest of these.

    A run never writes over another one; only `auto` and a checkpoint inside the folder continue it. Nothing is made
    yet: a start that fails leaves nothing. Raises ValueError.
    """
    named, resume = config.train.out, config.train.resume
    if named is not None:
        folder = Path(named)
        goes_on = resume == "auto" or (resume is not None and Path(resume).resolve().is_relative_to(folder.resolve()))
        if _taken(folder) and not goes_on:
            raise ValueError(
                f"train.out={folder} holds an earlier run; take another folder, train.resume=auto to go on, or "
                "remove it"
            )
        if not _taken(folder) and (strange := _other_files(folder)):
            raise ValueError(
                f"train.out={folder} is not empty and holds no run (there is {strange[0]}, but no config.yaml); take "
                "a new or an empty folder"
            )
    else:
        base = Path("runs") / config.preset
        numbered = (base if n == 1 else base.with_name(f"{base.name}-{n}") for n in itertools.count(1))
        used = list(itertools.takewhile(_taken, numbered))
        free = base if not used else base.with_name(f"{base.name}-{len(used) + 1}")
        folder = used[-1] if used and resume == "auto" else free
    folder = broadcast_object(folder)
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
        raise ValueError(f"the run folder {folder} cannot be made: {nearest} is not writable; take another train.out")
    return folder


def _taken(folder: Path) -> bool:
    try:
        return (folder / "config.yaml").exists()
    except PermissionError:
        raise ValueError(
            f"the run folder {folder} cannot be looked into: permission denied; take another train.out"
        ) from None


def _other_files(folder: Path) -> list[str]:
    """Names in a folder that no run has begun; a start that was killed may have left an empty folder or checkpoints."""
    return sorted(path.name for path in folder.iterdir() if path.name != "checkpoints") if folder.is_dir() else []


def _quiet() -> None:
    """DeepSpeed logs a lot at INFO; a person wants the banner and the progress line."""
    import logging

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
