"""The numbers of a log interval, by a clock that this test moves."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from silc.distributed import World
from silc.model import LogitScale
from silc.train import meter as module
from silc.train.meter import Meter
from silc.train.state import Counters
from silc.train.step import Losses, StepReport
from tests.train import cases


class Clock:
    """Seconds pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def state() -> SimpleNamespace:
    """A state without an engine: what a meter reads of it."""
    return SimpleNamespace(
        world=World(0, 1, torch.device("cpu")),
        engine=SimpleNamespace(grad_norm=lambda: 1.5),
        scale=LogitScale("sigmoid"),
        teacher=None,
        center=torch.zeros(4),
        counters=Counters(step=7),
        skipped_samples=lambda: 2,
    )


def report(loss: float, lr: float = 0.1) -> StepReport:
    value = torch.tensor(loss)
    return StepReport(True, lr, Losses(value, value / 2, None))


def test_losses_are_means_and_rates_leave_pauses_out(clock: Clock, state: SimpleNamespace) -> None:
    """A checkpoint in the middle of an interval costs it neither a step nor a second."""
    meter = Meter(cases.config(), state)
    with meter.waiting():
        clock.passes(1.0)
    clock.passes(2.0)
    meter.add(report(4.0))
    with meter.paused():
        assert state.counters.seconds == 3.0  # what a checkpoint holds
        clock.passes(1000.0)
    clock.passes(5.0)
    last = report(8.0, lr=0.3)
    meter.add(last)
    values = meter.read(last)
    assert (values["loss"], values["loss_contrastive"]) == (6.0, 3.0)
    assert "loss_distill" not in values
    assert values["step_seconds"] == 4.0
    assert values["samples_per_second"] == 2 * cases.GLOBAL_BATCH / 8.0
    assert values["waiting_for_data"] == 1.0 / 8.0
    assert (values["lr"], values["grad_norm"], values["skipped_samples"]) == (0.3, 1.5, 2)
    assert values["samples_seen"] == 7 * cases.GLOBAL_BATCH
    assert state.counters.seconds == 8.0


def test_a_new_interval_begins_where_the_last_was_read(clock: Clock, state: SimpleNamespace) -> None:
    meter = Meter(cases.config(), state)
    for loss, seconds in ((4.0, 2.0), (1.0, 3.0)):
        clock.passes(seconds)
        meter.add(report(loss))
        values = meter.read(report(loss))
        assert (values["loss"], values["step_seconds"]) == (loss, seconds)
    clock.passes(0.5)
    meter.settle()
    assert state.counters.seconds == 5.5


def test_the_clock_goes_on_after_a_pause_that_fails(clock: Clock, state: SimpleNamespace) -> None:
    meter = Meter(cases.config(), state)

    def save() -> None:
        clock.passes(10.0)
        raise OSError("full")

    with pytest.raises(OSError, match="full"), meter.paused():
        save()
    clock.passes(1.0)
    meter.settle()
    assert state.counters.seconds == 1.0


def test_truncated_captions_are_a_fraction_of_the_interval_and_said_once(clock: Clock, state: SimpleNamespace) -> None:
    run = cases.config()
    meter = Meter(run, state)
    readings = []
    for counts in ([0, 0], [1, 0], [3, 1], [8, 8]):
        for count in counts:
            clock.passes(1.0)
            meter.add(report(1.0), count)
        values = meter.read(report(1.0))
        readings.append((values["captions_truncated"], meter.notes(values)))
    assert [found for found, _ in readings] == [0, 1 / 16, 4 / 16, 1]
    assert [len(lines) for _, lines in readings] == [0, 0, 1, 0]
    (line,) = readings[2][1]
    assert "25% of the captions have more than model.text.context_length=6 tokens" in line
