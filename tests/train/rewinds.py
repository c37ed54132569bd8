"""Runs that go back to a checkpoint from before some trouble. Called in the processes that the launcher started."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from silc.config import Config
from silc.data.batch import Batch
from silc.distributed import World, barrier
from silc.train import checkpoint
from silc.train.loop import Trainer
from silc.train.step import StepReport
from silc.train.watch import Watch
from tests.train import cases
from tests.train.faults import WHITE, bits, differing, run_to_its_end
from tests.train.runs import make_trainer, shares

STEPS, SAVE_EVERY, MAX_BAD = 6, 2, 2
SPIKE = "loss_contrastive 9 at step 4"


def rewound(world: World, folder: Path) -> dict[str, dict[str, Any]]:
    """What each kind of trouble left: the end beside that of a run on the other batches alone, files, words."""
    found = {}
    for kind, stage, accumulation, precision in CASES[world.size]:
        name = f"{kind}-stage{stage}"
        run = cases.config(
            stage=stage,
            steps=STEPS,
            precision=precision,
            micro_batch=cases.GLOBAL_BATCH // world.size // accumulation,
            save_every=SAVE_EVERY,
            max_bad_steps=MAX_BAD,
        )
        run.watch.rewinds = 1
        found[name] = KINDS[kind](run, world, folder / f"rewound-{name}")
    return found


def _stretch(run: Config, world: World, folder: Path) -> dict[str, Any]:
    """Batches 3 and 4 are bad, a step after the checkpoint of step 2."""
    return _ended(run, world, folder, bad=(3, 4), good=(0, 1, 5, 6, 7, 8))


def _poison(run: Config, world: World, folder: Path) -> dict[str, Any]:
    """The center is not finite from step 4 on, and in the checkpoint of that step."""

    def poison(trainer: Trainer, calls: int) -> None:
        if calls == 4:
            trainer.state.center[0] = torch.nan

    return _ended(run, world, folder, bad=(), good=(0, 1, 6, 7, 8, 9), after=poison)


def _spike(run: Config, world: World, folder: Path) -> dict[str, Any]:
    """A loss has a spike from step 3 on, which lasts at step 4; only the main rank sees the log."""

    class Spike(Watch):
        def look(self, step: int, values: dict[str, Any]) -> list[str]:
            self.lasting, self.good_until = (SPIKE, 3) if step == 4 else (None, step)
            return []

    def watched(trainer: Trainer) -> None:
        if world.main:
            trainer._watch = Spike(run)

    return _ended(run, world, folder, bad=(), good=(0, 1, 4, 5, 6, 7), before=watched)


def _again(run: Config, world: World, folder: Path) -> dict[str, Any]:
    """Trouble comes a second time, and the run may go back once."""
    return _ended(run, world, folder, bad=(3, 4, 6, 7), good=())


def _early(run: Config, world: World, folder: Path) -> dict[str, Any]:
    """Trouble comes before there is a checkpoint."""
    return _ended(run, world, folder, bad=(1, 2), good=())


KINDS: dict[str, Callable[[Config, World, Path], dict[str, Any]]] = {
    "stretch": _stretch,
    "poison": _poison,
    "spike": _spike,
    "again": _again,
    "early": _early,
}
# Ranks -> kind, stage, accumulation, precision.
CASES: dict[int, list[tuple[str, int, int, str]]] = {
    1: [
        ("stretch", 1, 1, "fp32"),
        ("stretch", 3, 1, "bf16"),
        ("spike", 2, 1, "fp32"),
        ("again", 1, 1, "fp32"),
        ("early", 1, 1, "fp32"),
    ],
    2: [
        ("stretch", 1, 4, "fp32"),
        ("stretch", 2, 1, "bf16"),
        ("stretch", 3, 1, "fp32"),
        ("poison", 3, 1, "fp32"),
        ("spike", 1, 1, "fp32"),
    ],
}


def _ended(
    run: Config,
    world: World,
    folder: Path,
    *,
    bad: tuple[int, ...],
    good: tuple[int, ...],
    before: Callable[[Trainer], None] = lambda trainer: None,
    after: Callable[[Trainer, int], None] = lambda trainer, calls: None,
) -> dict[str, Any]:
    """A run whose batches `bad` are not finite, beside one of the batches `good` alone."""
    batches = shares(run, world, 12)
    for number in bad:
        batches[number].large[:] = WHITE
    trainer = make_trainer(run, world, folder, batches)
    before(trainer)
    inner, calls, trained = trainer.step, 0, {}

    def step(batch: Batch, **words: Any) -> StepReport:
        nonlocal calls
        calls += 1
        report = inner(batch, **words)
        if report.applied:
            trained[trainer.state.counters.step + 1] = batch.keys[0].split("-")[0]
        after(trainer, calls)
        return report

    trainer.step = step
    message = run_to_its_end(trainer)
    barrier()
    found: dict[str, Any] = {"message": message, "counters": vars(trainer.state.counters), "trained": trained}
    if good:
        clean = make_trainer(run, world, folder.with_name(f"{folder.name}-clean"), [batches[one] for one in good])
        clean.run()
        clean.close()
        found["wrong_end"] = differing(bits(clean), bits(trainer))
        saved = checkpoint.load_trainer(checkpoint.place(folder, 4), world.device)
        found["saved"] = saved["counters"]
        found["wrong_resumed_end"] = differing(bits(_resumed(run, world, folder, batches, saved)), bits(trainer))
    for name in ("metrics", "skipped_steps"):
        found[name] = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
    return found


def _resumed(run: Config, world: World, folder: Path, batches: list[Batch], saved: dict[str, Any]) -> Trainer:
    """The run resumed after it went back, with the samples from the position of its checkpoint on."""
    rest = [batch for batch in batches if batch.position > saved["counters"]["position"]]
    trainer = make_trainer(run, world, folder.with_name(f"{folder.name}-resumed"), rest)
    path = checkpoint.place(folder, 4)
    checkpoint.restore(path, saved, trainer.state, checkpoint.load_weights(path, "student"))
    trainer.run()
    trainer.close()
    return trainer
