"""A run from start to finish: join the job, find the data, train, save, export, evaluate.

:func:`train` answers a command with an exit status; :func:`run` answers a caller in Python, and raises.
"""

from __future__ import annotations

import contextlib
import errno
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
from silc.errors import STOPPED_BY_SIGNAL, NothingLeft, RunInterrupted, RunStopped, defer_to_first_rank
from silc.evaluate import runner
from silc.evaluate.datasets import EvalData
from silc.evaluate.report import examples, output
from silc.evaluate.sharding import Ended, ended_when
from silc.evaluate.towers import Towers
from silc.files import advice
from silc.interchange.source import Source
from silc.text import plural
from silc.train import evaluation, export, peers, run_folder, sources
from silc.train.banner import backend_lines, no_evaluation
from silc.train.engine import precision
from silc.train.init import find_initial
from silc.train.loop import Trainer
from silc.train.metrics import check_loggers
from silc.train.start import find_resumed, start
from silc.train.stop import StopRequest

# What a write to a disk may fail with where the error names no file.
OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE)


@peers.answered("silc train")
def train(config: Config) -> int:
    """Exit status: 0 trained, 1 ended early, 2 a user's mistake, 75 stopped by a signal after a checkpoint.

    Messages go to the terminal. Mistakes are found before training starts, and before a file of the run is written.
    """
    with StopRequest() as request:
        try:
            trainer, data = _prepare(config)
        except NothingLeft as done:
            if os.environ["RANK"] == "0":
                print(done, flush=True)
            return 0
        except ValueError as error:
            defer_to_first_rank()
            print(f"silc train: {error}", file=sys.stderr)
            return 2
        try:
            _finish(trainer, data, request, sys.argv)
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
    try:
        trainer, data = _prepare(config)
    except NothingLeft as done:
        print(done, flush=True)
        return done.folder
    with StopRequest() as request:
        _finish(trainer, data, request, command)
    return trainer.folder


def _prepare(config: Config) -> tuple[Trainer, EvalData | None]:
    """Everything up to the first step. Raises ValueError for what can be known to fail."""
    _quiet()
    check_loggers(config)
    world = init(config.engine.timeout_minutes)
    peers.watch(world, config.engine.silent_minutes)
    validate(config, world.size)
    backend_lines(config, world.device, precision(config, world.device))  # refuses a backend that cannot run here
    folder = run_folder.choose(config, world)
    try:
        # Before the sample set is rendered.
        resumed = find_resumed(config, world, folder.path)
        initial = find_initial(config) if resumed is None else None
        if world.main and initial is not None:
            print("\n".join([initial.words, *(f"note: {note}" for note in initial.notes)]), flush=True)
        shards, data = sources.resolve(config, world, default_root())
        trainer = start(config, world, shards, folder.path, resumed, initial)
    except BaseException:  # an interrupt too
        folder.leave()
        raise
    trainer.kept = folder
    return trainer, data


def _finish(trainer: Trainer, data: EvalData | None, request: StopRequest, command: Sequence[str]) -> None:
    """Everything from the first step on. Raises RunStopped or RunInterrupted."""
    try:
        request.started()
        path = _train(trainer, data, request)
        described = _export(trainer, path)
        if data is not None:
            _evaluate_last(trainer, data, request, command)
            if described is not None:
                export.renew_card(described, trainer.folder / "open_clip")
        elif trainer.world.main:
            print("\n".join(no_evaluation(trainer.config)), flush=True)
        if broadcast_object(not path.exists()):  # removed since it was written, perhaps with the run's folder
            path = trainer.saved() or path
            _export(trainer, path)
    except OSError as error:
        elsewhere = error.filename is not None and not Path(error.filename).is_relative_to(trainer.folder)
        if elsewhere or (error.filename is None and error.errno not in OF_DISKS):
            raise
        raise RunStopped(
            f"the run folder {trainer.folder} cannot be written: {error.strerror or error}{advice(error)}"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # each row has been written out
            trainer.close(waits=not peers.is_of_connection(sys.exception()))
        if trainer.kept is not None:
            trainer.kept.leave()


def _train(trainer: Trainer, data: EvalData | None, request: StopRequest) -> Path:
    """The last checkpoint."""
    started, batch = time.perf_counter(), trainer.config.train.global_batch
    counters = trainer.run(None if data is None else lambda: evaluation.on_the_way(trainer, data, request))
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


def _export(trainer: Trainer, path: Path) -> Source | None:
    """The student as an open_clip model beside the checkpoints (main rank); open_clip does not load it for a test, as
    `silc export` has it do: that takes a large model's memory once more.

    Returns, on the main rank, what was exported, without its values. Raises RunStopped where that cannot be, as when a
    tokenizer's files are gone.
    """
    described = None
    if trainer.world.main:
        try:
            written = export.write_export(path, trainer.folder / "open_clip", verify=False, keep_others=True)
        except ValueError as error:
            raise RunStopped(f"the run is trained and saved, but its student is not exported: {error}") from error
        print(f"student for open_clip: {written.exported.call}", flush=True)
        described = written.described()
    barrier()
    return described


def _evaluate_last(trainer: Trainer, data: EvalData, request: StopRequest, command: Sequence[str]) -> None:
    """Raises RunStopped for whatever goes wrong: the training is done, its checkpoint and export are whole.

    Raises RunInterrupted where a signal comes before all is measured; what follows the measuring is soon done.
    """
    try:
        try:
            if request.agreed():
                raise Ended
            with ended_when(lambda: request.received):
                results = evaluation.measure(trainer, data, trainer.config.eval.after)
        except Ended:
            asked, step = request.agreed(), trainer.state.counters.step
            raise RunInterrupted(
                f"{asked} after step {step} of {trainer.config.train.steps}; the run is trained, saved and exported. "
                "The same command with train.resume=auto evaluates it"
            ) from None
        if trainer.world.main:
            _show(trainer, data, *results, command)
        barrier()
        if broken := [result for result in results[1] if result.broken]:
            raise RuntimeError(f"{broken[0].task}, {broken[0].model}: {broken[0].error}")
    except RunInterrupted:
        raise
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


def _quiet() -> None:
    """DeepSpeed logs a lot at INFO; a person wants the banner and the progress line."""
    import logging

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
