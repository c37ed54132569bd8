"""Runs of the real trainer that are meant to go well: trajectories, and the teacher beside its masters.

Called in the processes that the launcher started.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from deepspeed.utils import safe_get_full_fp32_param
from torch import Tensor

from silc.config import Config
from silc.data.batch import Batch
from silc.distributed import World
from silc.train.loop import Trainer
from silc.train.run_folder import open_folder
from silc.train.state import TrainState, build_state
from tests.train import cases

EMA_STEPS = 50
BF16_STEPS = 4


def make_trainer(run: Config, world: World, folder: Path, batches: Iterable[Batch]) -> Trainer:
    """A trainer that reads `batches` and starts from the tests' first weights."""
    state = build_state(run, world, cases.first_model(run))
    return Trainer(run, state, batches, folder, open_folder(run, state, folder))


def shares(run: Config, world: World, steps: int) -> list[Batch]:
    """This rank's batches of the first `steps` steps."""
    return [cases.share(cases.global_batch(run, step), world.rank, world.size) for step in range(steps)]


def state_of(trainer: Trainer) -> dict[str, Tensor]:
    """Everything that training moves, whole, by name (collective)."""
    return whole(trainer.state)


def whole(state: TrainState) -> dict[str, Tensor]:
    """See :func:`state_of`."""
    found = {f"student.{name}": value for name, value in state.engine.master_weights().items()}
    found |= {f"teacher.{name}": value.clone() for name, value in state.teacher.average().items()}
    found |= {f"scale.{name}": value.clone() for name, value in state.scale.state_dict().items()}
    return found | {"center": state.center.clone()}


def trajectories(world: World, folder: Path) -> dict[str, dict[str, Any]]:
    """Twenty steps of each variant: its last state, and its log."""
    found = {}
    for objective, stage, accumulation in variants(world.size):
        name = case_name(objective, stage, accumulation)
        micro = cases.GLOBAL_BATCH // world.size // accumulation
        run = cases.config(objective, stage=stage, micro_batch=micro)
        trainer = make_trainer(run, world, folder / name, shares(run, world, cases.STEPS))
        counters = trainer.run()
        trainer.close()
        rows = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
        found[name] = {"state": state_of(trainer), "rows": rows, "counters": vars(counters)}
    return found


def variants(ranks: int) -> list[tuple[str, int, int]]:
    """(objective, ZeRO stage, accumulation) of the trajectories on this number of ranks."""
    plain = [(kind, stage, 1) for kind in ("softmax", "sigmoid") for stage in cases.STAGES]
    if ranks == 1:
        return [*plain, ("softmax", 1, 4), ("late", 2, 1)]
    accumulated = [("softmax", stage, 4) for stage in cases.STAGES]
    return [*plain, *accumulated, ("all_views", 1, 4), ("all_views", 3, 1), ("head_only", 2, 4), ("late", 3, 1)]


def case_name(objective: str, stage: int, accumulation: int) -> str:
    """Of a variant."""
    return f"{objective}-stage{stage}-x{accumulation}"


def averages(world: World, folder: Path) -> dict[str, dict[str, Any]]:
    """The teacher beside a NumPy average of the master weights, in every stage and precision."""
    found = {}
    for precision, steps in (("fp32", EMA_STEPS), ("bf16", BF16_STEPS)):
        for stage in cases.STAGES:
            run = cases.config(stage=stage, precision=precision, steps=steps)
            trainer = make_trainer(run, world, folder / f"average-{precision}-{stage}", shares(run, world, steps))
            found[f"{precision}-{stage}"] = _average(trainer)
    return found


def _average(trainer: Trainer) -> dict[str, Any]:
    momentum, followed = trainer.config.ema_momentum, dict(trainer.state.teacher.named_parameters())
    student = {n: p for n, p in trainer.state.engine.module.named_parameters() if n in followed}

    def masters() -> dict[str, np.ndarray]:
        return {n: safe_get_full_fp32_param(p).double().numpy(force=True) for n, p in student.items()}

    first = expected = masters()
    started = {name: value.clone() for name, value in trainer.state.teacher.average().items()}
    inner = trainer.step

    def step(*args: Any, **kwargs: Any) -> Any:
        nonlocal expected
        report = inner(*args, **kwargs)
        now = masters()
        expected = {name: momentum * mean + (1 - momentum) * now[name] for name, mean in expected.items()}
        return report

    trainer.step = step
    trainer.run()
    trainer.close()
    return {
        "first": first,
        "started": started,
        "expected": expected,
        "average": {name: value.clone() for name, value in trainer.state.teacher.average().items()},
        "working": {name: parameter.clone() for name, parameter in followed.items()},
    }
