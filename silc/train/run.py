"""A run from start to finish: join the job, find the data, train, evaluate, save, export."""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

from silc.config import Config, validate
from silc.data.sample import default_root
from silc.distributed import World, barrier, broadcast_object, init
from silc.errors import RunStopped
from silc.evaluate import final
from silc.evaluate.final import Suite
from silc.train import checkpoint, sources
from silc.train.banner import backend_lines
from silc.train.engine import precision
from silc.train.loop import Trainer
from silc.train.metrics import check_loggers


def train(config: Config) -> int:
    """Exit status: 0 trained, 1 ended early, 2 a user's mistake; mistakes are found before training starts."""
    _quiet()
    try:
        check_loggers(config)
        world = init(config.engine.timeout_minutes)
        validate(config, world.size)
        backend_lines(config, world.device, precision(config, world.device))  # refuses a backend that cannot run here
        folder = _run_folder(config, world)
        shards, suite = sources.resolve(config, world, default_root())
        trainer = Trainer(config, world, shards, folder)
    except ValueError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    try:
        return _train(config, trainer, suite)
    except RunStopped as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 1
    finally:
        trainer.close()


def _train(config: Config, trainer: Trainer, suite: Suite | None) -> int:
    started = time.perf_counter()
    counters = trainer.run(None if suite is None else lambda: _evaluate(config, trainer, suite, final_one=False))
    path = trainer.save()
    if trainer.world.main:
        minutes = (time.perf_counter() - started) / 60
        print(
            f"trained {counters.step} steps, {counters.step * config.train.global_batch} pairs, in {minutes:.1f} "
            f"min; checkpoint {path}"
        )
    if suite is not None:
        _evaluate(config, trainer, suite, final_one=True)
    _export(trainer, path)
    return 0


def _evaluate(config: Config, trainer: Trainer, suite: Suite, *, final_one: bool) -> None:
    """Zero-shot numbers into the log and zero_shot.json; at the end also the sheet of pictures (collective)."""
    results = final.run(config, suite, trainer.world, trainer.engine.module, trainer.teacher)
    if trainer.world.main:
        print(final.result_lines(suite, results), flush=True)
        trainer.log.write(
            trainer.counters.step,
            {f"zero_shot/{who}/{k}": v for who, values in results.items() for k, v in values.items()},
        )
        final.write_json(
            {"step": trainer.counters.step, "split": suite.name, **results}, trainer.folder / "zero_shot.json"
        )
    if final_one and config.eval.picture:
        path = trainer.folder / "held_out.png"
        final.sheet(config, suite, trainer.world, trainer.engine.module, path)
        if trainer.world.main:
            print(f"held-out pictures with their top captions: {path}", flush=True)


def _export(trainer: Trainer, path: Path) -> None:
    """The student as an open_clip model beside the checkpoints (main rank)."""
    if trainer.world.main:
        out = trainer.folder / "open_clip"
        checkpoint.export_open_clip(path, out)
        print(f"student for open_clip.create_model('local-dir:{out}')", flush=True)
    barrier()


def _run_folder(config: Config, world: World) -> Path:
    """`train.out`, or the first free one of runs/PRESET, runs/PRESET-2, ...; with resume=auto the newest of these.

    A new run never writes over an old one. Raises ValueError.
    """
    named = config.train.out
    resuming = config.train.resume is not None
    if named is not None:
        folder = Path(named)
        if not resuming and _taken(folder):
            raise ValueError(
                f"train.out={folder} holds an earlier run; take another folder, train.resume=auto to go on, or "
                "remove it"
            )
    else:
        base = Path("runs") / config.preset
        numbered = (base if n == 1 else base.with_name(f"{base.name}-{n}") for n in itertools.count(1))
        used = list(itertools.takewhile(_taken, numbered))
        free = base if not used else base.with_name(f"{base.name}-{len(used) + 1}")
        folder = used[-1] if used and config.train.resume == "auto" else free
    folder = broadcast_object(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"the run folder {folder} cannot be made: {error.strerror}; take another train.out") from None
    barrier()
    return folder


def _taken(folder: Path) -> bool:
    return (folder / "config.yaml").exists()


def _quiet() -> None:
    """DeepSpeed tells a lot at INFO; a person wants the banner and the progress line."""
    import logging

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
