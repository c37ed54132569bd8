"""The trainer, in every ZeRO stage and on one and two ranks, against the plain loop of oracle.py."""

from __future__ import annotations

from functools import lru_cache

import pytest
from torch import Tensor

from tests.train import cases, oracle
from tests.train.runs import case_name, variants

ALL = [(ranks, case_name(*variant)) for ranks in (1, 2) for variant in variants(ranks)]


@lru_cache
def expected(objective: str) -> oracle.Trajectory:
    return oracle.train(cases.config(objective))


def distance(a: Tensor, b: Tensor) -> float:
    """Relative to the length of b."""
    return ((a - b).norm() / b.norm().clamp(min=1e-6)).item()


@pytest.mark.parametrize(("ranks", "case"), ALL)
def test_twenty_steps_end_where_a_plain_loop_ends(launched, ranks: int, case: str) -> None:
    """Every parameter, the teacher, the center, scale and bias: relative 1e-4."""
    found, plain = launched(ranks)[0]["trajectories"][case], expected(case.split("-")[0])
    assert found["state"].keys() == plain.state.keys()
    far = {name: distance(found["state"][name], value) for name, value in plain.state.items()}
    assert {name: d for name, d in far.items() if not d < 1e-4} == {}
    assert (found["counters"]["step"], found["counters"]["skipped_steps"]) == (cases.STEPS, 0)


@pytest.mark.parametrize(("ranks", "case"), ALL)
def test_every_step_logs_what_a_plain_loop_has(launched, ranks: int, case: str) -> None:
    """Losses, gradient norm before clipping, scale, and the teacher's statistics over the batch, of all 20 steps."""
    rows, plain = launched(ranks)[0]["trajectories"][case]["rows"], expected(case.split("-")[0])
    assert [row["step"] for row in rows] == list(range(1, cases.STEPS + 1))
    for row, wanted in zip(rows, plain.rows, strict=True):
        assert {name: row.get(name) for name in wanted} == pytest.approx(wanted, rel=1e-4)
        assert ("loss_distill" in row) == ("loss_distill" in wanted)


@pytest.mark.parametrize("case", [case_name(*variant) for variant in variants(2)])
def test_ranks_agree_bit_for_bit(launched, case: str) -> None:
    first, second = (findings["trajectories"][case]["state"] for findings in launched(2))
    assert [name for name, value in first.items() if not value.equal(second[name])] == []


def test_the_plain_runs_go_where_they_are_meant_to() -> None:
    """Clipping in some steps and not in others, the limit of the scale, and a late start: the cases test something."""
    norms = [row["grad_norm"] for row in expected("softmax").rows]
    assert min(norms) < 5.0 < max(norms)
    scales = [row["logit_scale"] for row in expected("head_only").rows]
    assert scales[0] < cases.LIMIT * 0.999
    assert scales[-1] == pytest.approx(cases.LIMIT)
    assert [("loss_distill" in row) for row in expected("late").rows] == [False] * 5 + [True] * 15
    start, end = oracle.PlainLoop(cases.config()).teacher_head.last_layer.weight, expected("softmax").state
    assert distance(end["teacher.head.last_layer.weight"], start) > 1e-3
    assert end["center"].norm() > 0.1
