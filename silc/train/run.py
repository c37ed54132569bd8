"""A run from start to finish: join the job, find the data, train, save, export, evaluate."""

from __future__ import annotations

import errno
import itertools
import os
import sys
import time
import traceback
from pathlib import Path

from silc.config import Config, validate
from silc.data.sample_set.cache import default_root
from silc.distributed import barrier, broadcast_object, init
from silc.errors import STOPPED_BY_SIGNAL, RunInterrupted, RunStopped, speaks
from silc.evaluate import runner as suite
from silc.evaluate.datasets import EvalData
from silc.evaluate.report import examples as exhibits
from silc.evaluate.report import output
from silc.evaluate.towers import Towers, build_towers
from silc.train import checkpoint, sources
from silc.train.banner import backend_lines
from silc.train.engine import precision
from silc.train.loop import Trainer
from silc.train.metrics import check_loggers


def train(config: Config) -> int:
    """Exit status: 0 trained, 1 ended early, 2 a user's mistake, 75 stopped by a signal after a checkpoint.

    Mistakes are found before training starts, and before the run folder is made.
    """
    _quiet()
    try:
        check_loggers(config)
        world = init(config.engine.timeout_minutes)
        validate(config, world.size)
        backend_lines(config, world.device, precision(config, world.device))  # refuses a backend that cannot run here
        folder = _run_folder(config)
        shards, data = sources.resolve(config, world, default_root())
        trainer = Trainer(config, world, shards, folder)
    except ValueError as error:
        if speaks():
            print(f"train.py: {error}", file=sys.stderr)
        return 2
    try:
        return _train(config, trainer, data)
    except RunInterrupted as stop:
        if world.main:
            print(f"stopped by {stop}", flush=True)
        barrier()  # the launcher ends all ranks when the first one leaves with this status
        return STOPPED_BY_SIGNAL
    except RunStopped as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"train.py: the run folder {folder} cannot be written: {error.strerror}; make room", file=sys.stderr)
        return 1
    finally:
        trainer.close()


def _train(config: Config, trainer: Trainer, data: EvalData | None) -> int:
    started = time.perf_counter()
    counters = trainer.run(None if data is None else lambda: _evaluate(config, trainer, data, last=False))
    path = trainer.save()
    if trainer.world.main:
        minutes = (time.perf_counter() - started) / 60
        print(
            f"trained {counters.step} steps, {counters.step * config.train.global_batch} pairs, in {minutes:.1f} "
            f"min; checkpoint {path}",
            flush=True,
        )
    _export(trainer, path)
    return 0 if data is None else _evaluate_last(config, trainer, data)


def _evaluate_last(config: Config, trainer: Trainer, data: EvalData) -> int:
    """Exit status: whatever goes wrong here, the training is done, its checkpoint and export are whole."""
    try:
        _evaluate(config, trainer, data, last=True)
    except Exception as error:
        traceback.print_exc()
        print(
            f"train.py: the last evaluation failed ({error}); the run is trained, saved and exported. Measure it again "
            f"with: python launch/evaluate.py {trainer.folder}",
            file=sys.stderr,
        )
        return 1
    return 0


def _evaluate(config: Config, trainer: Trainer, data: EvalData, *, last: bool) -> None:
    """Figures to the terminal, the log and evaluation.json; after the last step also the pictures (collective)."""
    models = _towers(trainer)
    tasks = config.eval.after if last else config.eval.during
    results = suite.evaluate(config, models, data, tasks, trainer.world, strict=False)
    if trainer.world.main:
        step, folder = trainer.counters.step, trainer.folder
        print(f"evaluation at step {step}\n{suite.table(results, data, tasks)}", flush=True)
        trainer.log.write(step, suite.scalars(results))
        suite.write_json(results, step, config, folder / "evaluation.json")
        if last:
            _show(config, models, data, results, step, folder)
    barrier()


def _show(
    config: Config, models: list[Towers], data: EvalData, results: list[suite.Result], step: int, folder: Path
) -> None:
    if config.eval.contact_sheet:
        title = f"{folder}, step {step}: held-out pictures and what is closest"
        try:
            if output.sheet(config, models[0], data, title, folder / "held_out.png"):
                print(f"held-out pictures with their top captions: {folder / 'held_out.png'}", flush=True)
        except exhibits.FAILURES as error:
            print(f"there is no sheet of held-out pictures: {error}", flush=True)
    if config.eval.report:
        title = f"SILC: {folder}, step {step}"
        path = output.report(config, models, data, results, title, run=folder, folder=folder)
        print(f"report: {path}", flush=True)


def _towers(trainer: Trainer) -> list[Towers]:
    """The models to measure, on whole copies of the fp32 weights (collective)."""
    average = {} if trainer.teacher is None else trainer.teacher.average()
    return build_towers(trainer.config, trainer.engine.master_weights(), average, trainer.world.device, trainer.dtype)


def _export(trainer: Trainer, path: Path) -> None:
    """The student as an open_clip model beside the checkpoints (main rank)."""
    if trainer.world.main:
        out = trainer.folder / "open_clip"
        checkpoint.export_open_clip(path, out)
        print(f"student for open_clip.create_model('local-dir:{out}')", flush=True)
    barrier()


def _run_folder(config: Config) -> Path:
    """`train.out`, or the first free one of runs/PRESET, runs/PRESET-2, ...; with resume=auto the newest of these.

    A run never writes over another one; only `auto` and a checkpoint inside the folder go on there. Nothing is made
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
    else:
        base = Path("runs") / config.preset
        numbered = (base if n == 1 else base.with_name(f"{base.name}-{n}") for n in itertools.count(1))
        used = list(itertools.takewhile(_taken, numbered))
        free = base if not used else base.with_name(f"{base.name}-{len(used) + 1}")
        folder = used[-1] if used and resume == "auto" else free
    folder = broadcast_object(folder)
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise ValueError(f"the run folder {folder} cannot be made: {there} is not writable; take another train.out")
    return folder


def _taken(folder: Path) -> bool:
    return (folder / "config.yaml").exists()


def _quiet() -> None:
    """DeepSpeed tells a lot at INFO; a person wants the banner and the progress line."""
    import logging

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
