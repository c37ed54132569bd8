"""Runs with a tower that is not trained, in bf16. Called in the processes that the launcher started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deepspeed.runtime.zero import GatheredParameters
from torch import Tensor

from silc.distributed import World, barrier
from silc.train import checkpoint
from silc.train.saving import Saver
from silc.train.state import TrainState, build_state
from tests.train import cases
from tests.train.runs import make_trainer, shares

STEPS = 2
CASES = [("lit", 1), ("lit", 2), ("lit", 3), ("locked_text", 2), ("locked_text", 3)]


def locked(world: World, folder: Path) -> dict[str, dict[str, Any]]:
    """For each tower and stage: masters and working copy before and after some steps, and of a state restored from
    there that had begun with other weights; the names of the moments; what autograd asks of the parameters.
    """
    found = {}
    for kind, stage in CASES:
        run = cases.config(kind, stage=stage, precision="bf16", steps=STEPS, save_every=0)
        place = folder / f"{kind}-{stage}"
        trainer = make_trainer(run, world, place, shares(run, world, STEPS))
        before = _weights(trainer.state)
        trainer.run()
        trainer.close()
        barrier()
        path = Saver(place / "again", run, trainer.state).save()
        other = build_state(run, world)
        weights = checkpoint.load_weights(path, "student")
        begun = _weights(other)
        checkpoint.restore(path, checkpoint.load_trainer(path, world.device), other, weights)
        moments = trainer.state.engine.moments(copied=True).tensors
        found[f"{kind}-{stage}"] = {
            "before": before,
            "after": _weights(trainer.state),
            "begun": begun,
            "restored": _weights(other),
            "saved": weights,
            "moments": sorted({name.partition("/")[2] for name in moments}),
            "said": trainer.state.engine.frozen,
        }
    return found


def _weights(state: TrainState) -> dict[str, dict[str, Tensor]]:
    """Whole masters, and the whole working copy, by name (collective)."""
    working = {}
    for name, parameter in state.engine.module.named_parameters():
        with GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
            working[name] = parameter.detach().clone()
    return {"masters": state.engine.master_weights(), "working": working}
