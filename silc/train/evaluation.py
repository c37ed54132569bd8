"""Evaluations of a run, on the way and at its end. Whatever goes wrong in one on the way, training goes on."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import Tensor

from silc.distributed import all_gather_objects
from silc.evaluate import runner
from silc.evaluate.datasets import EvalData
from silc.evaluate.sharding import Ended, TaskFailed, ended_when, failure
from silc.evaluate.towers import Scale, Towers, build_towers
from silc.train import peers
from silc.train.loop import Trainer
from silc.train.stop import StopRequest

T = TypeVar("T")


def on_the_way(trainer: Trainer, data: EvalData, request: StopRequest) -> dict[str, float]:
    """Measure the tasks of `eval.during` (collective). What goes wrong, on any rank, is printed and logged.

    request: a signal ends it, on all ranks: the loop's next step then finds the signal.

    Returns the metrics by their names in the log; nothing on all ranks but the main one, and where it failed or ended.
    """
    try:
        with ended_when(lambda: request.received):
            _, results = measure(trainer, data, trainer.config.eval.during)
    except Ended:
        return {}
    except TaskFailed as error:
        step = trainer.state.counters.step
        if trainer.world.main:
            print(f"the evaluation at step {step} failed ({error}); training goes on", flush=True)
            if trainer.log is not None:
                with contextlib.suppress(OSError):  # a disk that is full ends the run where the loop writes to it
                    trainer.log.write(step, {"eval_failed": len(trainer.config.eval.during)})
        return {}
    return runner.scalars(results) if trainer.world.main else {}


def measure(trainer: Trainer, data: EvalData, tasks: Sequence[str]) -> tuple[list[Towers], list[runner.Result]]:
    """Metrics to the terminal, the log and evaluation.json (collective). Returns the models, and what was measured.

    A task that fails is such a result. Raises TaskFailed, on all ranks, for what fails outside of tasks on any.
    """
    config, world = trainer.config, trainer.world
    peers.note("evaluating", trainer.state.counters.step)
    weights = _weights(trainer)  # not guarded: a rank that failed in these collectives leaves the job
    models = _everywhere(trainer, lambda: _towers(trainer, *weights))
    results = runner.evaluate(config, models, data, tasks, world, strict=False)
    trainer.keep_folder()
    _everywhere(trainer, lambda: _keep(trainer, data, tasks, models, results) if world.main else None)
    return models, results


def _weights(trainer: Trainer) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Whole copies of the fp32 weights of student and teacher (collective)."""
    state = trainer.state
    average = {} if state.teacher is None else state.teacher.average()
    return state.engine.master_weights(), average


def _towers(trainer: Trainer, student: dict[str, Tensor], average: dict[str, Tensor]) -> list[Towers]:
    """The models to measure."""
    state = trainer.state
    scale = Scale.of(state.scale)
    return build_towers(trainer.config, student, average, state.world.device, state.engine.dtype, scale)


def _keep(
    trainer: Trainer, data: EvalData, tasks: Sequence[str], models: Sequence[Towers], results: list[runner.Result]
) -> None:
    """Print and write the results (main rank)."""
    step = trainer.state.counters.step
    print(f"evaluation at step {step}\n{runner.table(results, data, tasks, models)}", flush=True)
    if trainer.log is not None:
        trainer.log.write(step, runner.scalars(results))
    runner.write_json(results, step, trainer.config, trainer.folder / "evaluation.json", tasks)


def _everywhere(trainer: Trainer, local: Callable[[], T]) -> T:
    """local(), when it has succeeded on every rank (collective). Raises TaskFailed, on all, where it has not."""
    wrong, value = None, None
    try:
        value = local()
    except Exception as error:
        traceback.print_exception(error)
        wrong = f"rank {trainer.world.rank}: {failure(error)}"
    for found in all_gather_objects(wrong):
        if found is not None:
            raise TaskFailed(found)
    return value  # type: ignore[return-value]
