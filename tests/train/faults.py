"""Runs in which something is not finite. Called in the processes that the launcher started, two of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from silc.data.batch import Batch
from silc.distributed import World, barrier
from silc.errors import RunStopped
from silc.train import step as step_module
from silc.train.checkpoint import newest
from silc.train.loop import Trainer
from silc.train.step import StepReport
from tests.train import cases
from tests.train.runs import make_trainer, shares, state_of

CLEAN = 2  # steps of a run; before the last one comes the bad batch
WHITE = 255  # the pixels of a sample that the planted hook answers with NaN
BAD_KEY = "shard/99-5"  # the second of the four samples of rank 1: with accumulation by 4, of its second micro-batch
MAX_BAD = 2


def discarded(world: World, folder: Path) -> dict[str, dict[str, Any]]:
    """Every fault in every stage, with and without accumulation: the state around each, and the run that goes on."""
    found = {}
    for name, objective, stage, accumulation, faults in CASES:
        micro = cases.GLOBAL_BATCH // world.size // accumulation
        run = cases.config(objective, stage=stage, micro_batch=micro, steps=CLEAN)
        clean = make_trainer(run, world, folder / f"clean-{name}", shares(run, world, CLEAN))
        clean.run()
        clean.close()
        expected = bits(clean)
        batches = shares(run, world, CLEAN)
        batches[CLEAN - 1 : CLEAN - 1] = [_bad_batch(fault, run, world) for fault in faults]
        trainer = make_trainer(run, world, folder / f"faults-{name}", batches)
        found[name] = _observe(trainer, faults, expected)
    return found


def _bad_batch(fault: str, run: Any, world: World) -> Batch:
    """This rank's share of the batch that goes wrong."""
    whole = replace(cases.global_batch(run, 99), position=(CLEAN - 1) * cases.GLOBAL_BATCH)
    if fault == "crop":
        whole.small[5] = WHITE
    elif fault == "sample":
        whole.large[5] = WHITE
        whole.small[5] = WHITE
    return cases.share(whole, world.rank, world.size)


def _observe(trainer: Trainer, faults: list[str], expected: dict[str, Tensor]) -> dict[str, Any]:
    """Run to the end with bad batches before the last; what changed over each of them, and what the run ends in."""
    seen: dict[str, Any] = {}
    inner, calls = trainer.step, 0

    def step(batch: Batch, **kwargs: Any) -> StepReport:
        nonlocal calls
        calls += 1
        if not 0 <= calls - CLEAN < len(faults):
            return inner(batch, **kwargs)
        fault, before = faults[calls - CLEAN], bits(trainer)
        with FAULTS[fault](trainer):
            report = inner(batch, **kwargs)
        moved = differing(before, bits(trainer))
        seen[fault] = {"applied": report.applied, "fault": asdict(report.fault), "moved": moved}
        return report

    trainer.step = step
    with white_is_nan(trainer.state.engine.module):
        counters = trainer.run()
    trainer.close()
    ends = {"wrong_end": differing(expected, bits(trainer)), "counters": vars(counters)}
    return {"seen": seen, "log": skipped_log(trainer.folder)} | ends


def skipped_log(folder: Path) -> list[dict[str, Any]]:
    barrier()  # the main rank writes it
    return [json.loads(line) for line in (folder / "skipped_steps.jsonl").read_text().splitlines()]


def bits(trainer: Trainer) -> dict[str, Tensor]:
    """Everything a step may move: masters, moments, working weights, teacher, center, scale and its moments."""
    bits = {name: value.clone() for name, value in state_of(trainer).items()}
    moving = trainer.state
    optimizers = {"moment": moving.engine._engine.optimizer.optimizer, "scale_moment": moving.scale_optimizer}
    for kind, optimizer in optimizers.items():
        for index, state in enumerate(optimizer.state.values()):
            bits |= {
                f"{kind}.{index}.{key}": value.clone() for key, value in state.items() if isinstance(value, Tensor)
            }
    assert any(name.startswith("moment.") and name.endswith("exp_avg_sq") for name in bits)
    for name, parameter in trainer.state.engine.module.named_parameters():  # ZeRO-3 keeps this rank's part of it
        bits[f"working.{name}"] = getattr(parameter, "ds_tensor", parameter).detach().clone()
    return bits | {f"teacher_working.{name}": value.clone() for name, value in trainer.state.teacher.named_parameters()}


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


@contextmanager
def white_is_nan(module: nn.Module) -> Any:
    """Features of an all-white crop are NaN, wherever the sample that holds it comes to stand."""

    def plant(_: nn.Module, args: tuple[list[Tensor]], features: list[Tensor]) -> list[Tensor]:
        white = [(group == WHITE).flatten(1).all(1) for group in args[0]]
        return [f.masked_fill(w[:, None], torch.nan) for f, w in zip(features, white, strict=True)]

    handle = module.visual.register_forward_hook(plant)
    yield
    handle.remove()


@contextmanager
def _infinite_gradient(trainer: Trainer) -> Any:
    """On rank 1 alone, the gradient of one matrix is infinite in the second backward pass, or in the only one."""
    weight, calls = trainer.state.engine.module.head.mlp[0].weight, 0

    def blow(gradient: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        infinite = trainer.world.rank == 1 and calls == min(2, trainer.state.engine.accumulation)
        return torch.full_like(gradient, torch.inf) if infinite else gradient

    handle = weight.register_hook(blow)
    yield
    handle.remove()


def _nan(pick: Callable[[Trainer], Tensor]) -> Callable[[Trainer], AbstractContextManager[None]]:
    """On rank 1 alone, a value of a tensor of the state is NaN in this step."""

    @contextmanager
    def planted(trainer: Trainer) -> Any:
        tensor = pick(trainer).detach()
        before = tensor.clone()
        if trainer.world.rank == 1:
            tensor.view(-1)[-1] = torch.nan
        yield
        tensor.copy_(before)

    return planted


def _student_weight(trainer: Trainer) -> Tensor:
    parameter = dict(trainer.state.engine.module.named_parameters())[STUDENT_WEIGHT]
    return getattr(parameter, "ds_tensor", parameter)  # ZeRO-3 keeps this rank's part of it


@contextmanager
def _no_contrastive_loss(trainer: Trainer) -> Any:
    """On rank 1 alone, the contrastive loss is infinite, of finite features."""
    before = step_module.contrastive
    if trainer.world.rank == 1:
        step_module.contrastive = lambda *words, **more: before(*words, **more) + torch.inf
    yield
    step_module.contrastive = before


STUDENT_WEIGHT = "visual.trunk.blocks.0.mlp.fc1.weight"
TEACHER_WEIGHT = "head.mlp.0.weight"
FAULTS: dict[str, Callable[[Trainer], AbstractContextManager[None]]] = {
    # First: looking at local crops again, as others have it, leaves weights gathered in ZeRO-3, for the next step too.
    "student": _nan(_student_weight),
    "sample": nullcontext,  # a sample whose every feature is NaN
    "crop": nullcontext,  # a sample with NaN in its local crops alone: only the distillation loss sees it
    "gradient": _infinite_gradient,
    "teacher": _nan(lambda trainer: dict(trainer.state.teacher.named_parameters())[TEACHER_WEIGHT]),
    "center": _nan(lambda trainer: trainer.state.center),
    "scale": _nan(lambda trainer: trainer.state.scale.logit_scale),
    "loss": _no_contrastive_loss,
}
# Name, objective, stage, accumulation, faults.
CASES = [
    (f"stage{stage}-x{accumulation}", "softmax", stage, accumulation, list(FAULTS))
    for stage in cases.STAGES
    for accumulation in (1, 4)
] + [("head-only", "head_only", 2, 4, ["sample", "teacher", "center", "scale"])]


def run_to_its_end(trainer: Trainer) -> str:
    """Run with white samples planted as NaN. Returns what stopped it; nothing where it came to its last step."""
    message = ""
    with white_is_nan(trainer.state.engine.module):
        try:
            trainer.run()
        except RunStopped as error:
            message = str(error)
    trainer.close()
    return message


def stopped(world: World, folder: Path) -> dict[str, Any]:
    """A run whose batches are all bad after the first."""
    run = cases.config(steps=CLEAN, max_bad_steps=MAX_BAD)
    batches = [*shares(run, world, 1), *(_bad_batch("sample", run, world) for _ in range(MAX_BAD + 1))]
    trainer = make_trainer(run, world, folder / "stopped", batches)
    message = run_to_its_end(trainer)
    return {"message": message, "counters": vars(trainer.state.counters), "log": skipped_log(trainer.folder)}


def without_data(world: World, folder: Path) -> dict[str, Any]:
    """A run in which rank 1 has no data after the first step, while the others have; and one that goes on from step 5
    of another folder and has none at all."""

    def batches() -> Iterator[Batch | None]:
        yield from shares(run, world, 1)
        yield from nothing()

    def nothing() -> Iterator[Batch | None]:
        if world.rank == 1:
            raise RunStopped("far/away.tar could not be read")
        while True:
            yield shares(run, world, 2)[1]

    run = cases.config(steps=CLEAN + 1)
    ends = _ends(make_trainer(run, world, folder / "without-data", batches()))
    run = cases.config(steps=9)
    elsewhere = make_trainer(run, world, folder / "without-data-elsewhere", nothing())
    elsewhere.state.counters.step = 5
    return ends | {"elsewhere": _ends(elsewhere)}


def _ends(trainer: Trainer) -> dict[str, Any]:
    """Words of the end, the step, and the checkpoint that is left."""
    message = ""
    try:
        trainer.run()
    except RunStopped as error:
        message = str(error)
    trainer.close()
    saved = newest(trainer.folder)
    return {"message": message, "step": trainer.state.counters.step, "saved": None if saved is None else saved.name}
