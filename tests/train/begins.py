"""States that begin with the weights of another model, in every ZeRO stage and precision.

Called in the processes that the launcher started.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from silc.config import Config
from silc.distributed import World
from silc.interchange.fit import fit
from silc.interchange.source import Source
from silc.train.init import Initial
from silc.train.start import begun as begun_state
from tests.train import cases
from tests.train.runs import whole

SCALE, BIAS = 1.75, -3.5


def source(run: Config, *, with_head: bool) -> Source:
    """Weights that no bf16 number equals, of a model without or with a distillation head."""
    generator = torch.Generator().manual_seed(5)
    weights = {
        name: value.detach() + 1e-4 * torch.randn(value.shape, generator=generator)
        for name, value in cases.first_model(run).state_dict().items()
        if with_head or not name.startswith("head.")
    }
    return Source(path=Path("there"), kind="", model=run.model, weights=weights, logit_scale=SCALE, logit_bias=BIAS)


def initial(run: Config, found: Source) -> Initial:
    weights, report = fit(found, run.model)
    return Initial(Path("there"), weights, report, SCALE, BIAS, "", [])


def begun(world: World) -> dict[str, dict[str, Tensor | Any]]:
    """By precision and stage: everything that a step would move, whole."""
    found = {}
    for precision in ("fp32", "bf16"):
        for stage in cases.STAGES:
            run = cases.config("sigmoid", stage=stage, precision=precision)
            state = begun_state(run, world, initial(run, source(run, with_head=stage != 2)))
            assert state.counters.step == state.counters.position == 0
            found[f"{precision}-{stage}"] = whole(state)
    return found
