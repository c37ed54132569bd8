"""Learning rates at the points where their shapes change."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silc.config import OptimConfig
from silc.train.schedule import learning_rate

TOTAL = 1000


def optim(**options) -> OptimConfig:
    return OptimConfig(**({"lr": 2.0, "warmup_steps": 100, "cooldown_steps": 200, "timescale": 300} | options))


@pytest.mark.parametrize("schedule", ["rsqrt", "cosine", "constant"])
def test_warms_up_from_the_first_step_to_the_peak(schedule: str) -> None:
    rates = [learning_rate(step, TOTAL, optim(schedule=schedule)) for step in (0, 49, 99, 100)]
    assert rates == pytest.approx([0.02, 1.0, 2.0, 2.0])


def test_rsqrt() -> None:
    """Down by sqrt(2) after one timescale, by 2 after three; the cool-down multiplies and nearly ends at 0."""
    run = optim(schedule="rsqrt")
    assert learning_rate(400, TOTAL, run) == pytest.approx(2.0 / math.sqrt(2))
    assert learning_rate(800, TOTAL, run) == pytest.approx(2.0 / math.sqrt(1 + 700 / 300))
    assert learning_rate(900, TOTAL, run) == pytest.approx(0.5 * 2.0 / math.sqrt(1 + 800 / 300))
    assert learning_rate(999, TOTAL, run) == pytest.approx(2.0 / math.sqrt(1 + 899 / 300) / 200)


@pytest.mark.parametrize(("warmup", "timescale"), [(100, 10_000), (20_000, 20_000)])
def test_rsqrt_takes_a_timescale_of_its_own(warmup: int, timescale: int) -> None:
    run = optim(schedule="rsqrt", timescale=None, warmup_steps=warmup, cooldown_steps=0)
    assert learning_rate(warmup + timescale, 10**6, run) == pytest.approx(2.0 / math.sqrt(2))


def test_cosine() -> None:
    """Half way down in the middle, `final_lr` at the end; no cool-down on top."""
    run = optim(schedule="cosine", final_lr=0.1)
    assert learning_rate(550, TOTAL, run) == pytest.approx(2.0 * 0.55)
    assert learning_rate(1000, TOTAL, run) == pytest.approx(2.0 * 0.1)
    assert learning_rate(999, TOTAL, run) == pytest.approx(2.0 * 0.1, rel=1e-4)


def test_constant() -> None:
    run = optim(schedule="constant")
    assert [learning_rate(step, TOTAL, run) for step in (100, 500, 800)] == [2.0, 2.0, 2.0]
    assert learning_rate(950, TOTAL, run) == pytest.approx(0.5)
    assert learning_rate(999, TOTAL, optim(schedule="constant", warmup_steps=0, cooldown_steps=0)) == 2.0


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["rsqrt", "cosine", "constant"]), st.integers(0, 300), st.integers(0, 300), st.integers(10, 10_000)
)
def test_positive_and_without_jumps(schedule: str, warmup: int, cooldown: int, timescale: int) -> None:
    """No step changes the rate by more than its steepest ramp does."""
    run = optim(schedule=schedule, warmup_steps=warmup, cooldown_steps=cooldown, timescale=timescale)
    rates = [learning_rate(step, TOTAL, run) for step in range(TOTAL)]
    assert min(rates) > 0
    assert max(rates) <= run.lr
    ramps = [1 / steps for steps in (warmup, cooldown) if steps]
    steepest = run.lr * (max([*ramps, 0.0]) + math.pi / 2 / (TOTAL - warmup) + 0.5 / timescale)
    assert max(abs(a - b) for a, b in itertools.pairwise(rates)) <= steepest * (1 + 1e-9)
