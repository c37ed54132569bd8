"""Learning rates, parameter groups and the choice of the optimiser."""

from __future__ import annotations

import itertools
import math
import sys
import types

import pytest
import torch

from silc.config import OptimConfig, ParameterRule
from silc.train.optim import build_optimizer, parameter_groups, set_learning_rate
from silc.train.schedule import learning_rate

CPU = torch.device("cpu")


def rates(total: int, **keys) -> list[float]:
    optim = OptimConfig(**{"lr": 1.0, "warmup_steps": 10, "cooldown_steps": 0, "schedule": "constant", **keys})
    return [learning_rate(step, total, optim) for step in range(total)]


def test_warm_up_is_linear_and_never_zero():
    assert rates(30)[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])


def test_rsqrt_falls_by_sqrt_2_after_its_timescale_and_cools_down_to_0():
    got = rates(200, schedule="rsqrt", timescale=40, cooldown_steps=20)
    assert got[10] == pytest.approx(1.0)
    assert got[50] == pytest.approx(1 / math.sqrt(2))
    assert got[180] == pytest.approx(1 / math.sqrt(1 + 170 / 40))
    assert got[190] == pytest.approx(0.5 / math.sqrt(1 + 180 / 40))
    assert got[199] == pytest.approx(0.05 / math.sqrt(1 + 189 / 40))


def test_cosine_starts_at_the_peak_and_ends_at_its_last_rate():
    got = rates(110, schedule="cosine", final_lr=0.1)
    assert got[10] == pytest.approx(1.0)
    assert got[60] == pytest.approx(0.55)
    assert got[-1] == pytest.approx(0.1, abs=1e-3)


@pytest.mark.parametrize("schedule", ["rsqrt", "cosine", "constant"])
def test_no_schedule_jumps(schedule):
    got = rates(300, schedule=schedule, cooldown_steps=0 if schedule == "cosine" else 50)
    assert max(abs(a - b) for a, b in itertools.pairwise(got)) <= 0.1 + 1e-9


def named() -> list[tuple[str, torch.nn.Parameter]]:
    shapes = {"visual.w": (4, 4), "visual.b": (4,), "visual.pos_embed": (1, 3, 4), "text.w": (4, 4), "head.w": (2, 2)}
    return [(name, torch.nn.Parameter(torch.ones(shape))) for name, shape in shapes.items()]


def test_matrices_decay_and_biases_and_tables_do_not():
    parameters = named()
    groups = parameter_groups(parameters, OptimConfig(weight_decay=0.1))
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    got = {name: decay[id(p)] for name, p in parameters}
    assert got == {"visual.w": 0.1, "visual.b": 0.0, "visual.pos_embed": 0.0, "text.w": 0.1, "head.w": 0.1}


def test_the_first_matching_rule_sets_both_multipliers():
    rules = [ParameterRule(pattern=r"^text\.", lr=0.5, weight_decay=2.0), ParameterRule(pattern="w$", lr=3.0)]
    parameters = named()
    groups = parameter_groups(parameters, OptimConfig(weight_decay=0.1, rules=rules))
    set_learning_rate(groups, 2.0)
    got = {name: group for group in groups for name, p in parameters if any(p is q for q in group["params"])}
    assert (got["text.w"]["lr"], got["text.w"]["weight_decay"]) == (1.0, 0.2)
    assert (got["head.w"]["lr"], got["head.w"]["weight_decay"]) == (6.0, 0.1)
    assert got["visual.b"]["lr"] == 2.0


def test_a_rule_that_matches_nothing_is_a_mistake():
    with pytest.raises(ValueError, match="visaul"):
        parameter_groups(named(), OptimConfig(rules=[ParameterRule(pattern="visaul")]))


def groups_for_build() -> list[dict]:
    return parameter_groups(named(), OptimConfig())


def unrelated_apex(monkeypatch) -> None:
    """A package that is only called apex."""
    package = types.ModuleType("apex")
    package.__path__ = []
    monkeypatch.setitem(sys.modules, "apex", package)
    for name in ("apex.optimizers", "apex.multi_tensor_apply"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def real_apex(monkeypatch, available: bool = True) -> type:
    """Something with the features of NVIDIA's."""

    class FusedAdam(torch.optim.AdamW):
        pass

    unrelated_apex(monkeypatch)
    optimizers, apply = types.ModuleType("apex.optimizers"), types.ModuleType("apex.multi_tensor_apply")
    optimizers.FusedAdam = FusedAdam
    apply.multi_tensor_applier = types.SimpleNamespace(available=available)
    monkeypatch.setitem(sys.modules, "apex.optimizers", optimizers)
    monkeypatch.setitem(sys.modules, "apex.multi_tensor_apply", apply)
    return FusedAdam


def test_an_unrelated_apex_is_passed_over_and_refused_by_name(monkeypatch):
    unrelated_apex(monkeypatch)
    optimizer, reason = build_optimizer(groups_for_build(), OptimConfig(), CPU)
    assert type(optimizer) is torch.optim.AdamW
    assert "apex" in reason
    with pytest.raises(ValueError, match=r"optim\.optimizer=auto"):
        build_optimizer(groups_for_build(), OptimConfig(optimizer="apex_adamw"), CPU)


def test_a_real_apex_needs_its_extensions_and_a_gpu(monkeypatch):
    real_apex(monkeypatch, available=False)
    with pytest.raises(ValueError, match="CUDA extensions"):
        build_optimizer(groups_for_build(), OptimConfig(optimizer="apex_adamw"), CPU)
    real_apex(monkeypatch)
    with pytest.raises(ValueError, match="CUDA"):
        build_optimizer(groups_for_build(), OptimConfig(optimizer="apex_adamw"), CPU)


def test_torch_adamw_has_the_configured_numbers():
    optim = OptimConfig(optimizer="torch_adamw", lr=0.3, beta1=0.8, beta2=0.7, eps=1e-5)
    optimizer, _ = build_optimizer(parameter_groups(named(), optim), optim, CPU)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["eps"]) == (0.3, (0.8, 0.7), 1e-5)
