"""Which passes a step asks of the engine, and with what. The engine is a stand-in around the real student."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from silc.config import Config
from silc.model import LogitScale
from silc.model.dropping import Dropping
from silc.objective import plan_views
from silc.train.locked import lock
from silc.train.step import SilcStep
from tests.train import cases


class Recording:
    """Runs the student and notes the arguments of its passes."""

    dtype = torch.float32

    def __init__(self, run: Config, accumulation: int) -> None:
        self.model, self.accumulation = cases.first_model(run), accumulation
        lock(self.model, run.optim)
        self.calls: list[tuple[Any, ...]] = []

    def forward(self, *arguments: Any) -> Any:
        self.calls.append(arguments)
        return self.model(*arguments)

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def step(self, lr: float) -> bool:
        return True


def passes(kind: str, accumulation: int, first: int = 0, **optim: Any) -> list[tuple[Any, ...]]:
    """(large, small, tokens, distill, dropping) of each pass of a step without a teacher."""
    run = cases.config(kind)
    for name, value in optim.items():
        setattr(run.optim, name, value)
    engine, scale = Recording(run, accumulation), LogitScale.of(run.objective)
    optimizer = torch.optim.AdamW(scale.parameters(), lr=0.0)
    state = SimpleNamespace(engine=engine, teacher=None, scale=scale, scale_optimizer=optimizer)
    batch = cases.global_batch(run, first)
    SilcStep(run, plan_views(run), state)(batch, lr=0.1, distill=False)
    return engine.calls


def test_a_locked_tower_runs_once_however_often_the_step_accumulates() -> None:
    for kind, place in (("lit", 0), ("locked_text", 2)):
        calls = passes(kind, 4)
        assert len(calls) == 8
        assert [call[place] is not None for call in calls] == [True] * 4 + [False] * 4
        assert all(call[2 - place] is not None for call in calls)
        assert [call[place] is not None for call in passes(kind, 1)] == [True]
    assert all(call[0] is not None and call[2] is not None for call in passes("softmax", 4))


@pytest.mark.parametrize("accumulation", [1, 4])
def test_a_run_without_drop_path_and_patch_dropout_draws_nothing(accumulation: int) -> None:
    assert all(call[4] is None for call in passes("softmax", accumulation))


def test_both_passes_of_an_accumulated_step_draw_at_the_same_addresses() -> None:
    """Those of the samples' places in the stream: step 3 of batches of 8, two at a time."""
    expected = [Dropping(0, 24 + at) for at in (0, 2, 4, 6)]
    assert [call[4] for call in passes("dropping", 4, first=3)] == expected * 2
    assert [call[4] for call in passes("dropping", 1, first=3)] == [Dropping(0, 24)]
