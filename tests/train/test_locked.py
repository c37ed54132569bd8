"""Towers that are not trained: no bit of them moves, in any ZeRO stage, and nothing is kept for their sake."""

from __future__ import annotations

import pytest
import torch

from silc.config import OptimConfig
from silc.model import build
from silc.train.locked import lock
from silc.train.optim import frozen, parameter_groups
from tests.train import cases, locked_runs

PREFIX = {"lit": "visual.", "locked_text": "text."}
CASES = [(ranks, *case) for ranks in (1, 2) for case in locked_runs.CASES]


@pytest.mark.parametrize(("ranks", "kind", "stage"), CASES)
def test_a_locked_tower_does_not_move_by_a_bit_and_the_rest_does(launched, ranks, kind, stage) -> None:
    """bf16: the fp32 values that were given are kept, saved and restored; the forward pass uses them rounded."""
    first = {name: value.detach() for name, value in cases.first_model(cases.config(kind)).named_parameters()}
    for findings in launched(ranks):
        found = findings["locked"][f"{kind}-{stage}"]
        moved = 0
        for name, value in first.items():
            if not name.startswith(PREFIX[kind]):
                moved += not torch.equal(found["after"]["masters"][name], value)
                continue
            for moment in ("before", "after", "restored"):
                assert torch.equal(found[moment]["masters"][name], value), (moment, name)
                assert torch.equal(found[moment]["working"][name], value.bfloat16()), (moment, name)
            assert torch.equal(found["saved"][name], value), name
        assert moved > 0.8 * sum(not name.startswith(PREFIX[kind]) for name in first)


@pytest.mark.parametrize(("ranks", "kind", "stage"), CASES)
def test_a_state_that_began_with_other_weights_is_restored_whole(launched, ranks, kind, stage) -> None:
    for findings in launched(ranks):
        found = findings["locked"][f"{kind}-{stage}"]
        assert any(
            not torch.equal(value, found["after"]["masters"][name])
            for name, value in found["begun"]["masters"].items()
            if name.startswith(PREFIX[kind])
        )
        for copy in ("masters", "working"):
            for name, value in found["after"][copy].items():
                assert torch.equal(found["restored"][copy][name], value), (copy, name)


@pytest.mark.parametrize(("ranks", "kind", "stage"), CASES)
def test_the_optimiser_does_not_know_of_it(launched, ranks, kind, stage) -> None:
    names = {name for name, _ in cases.first_model(cases.config(kind)).named_parameters()}
    held = {name for findings in launched(ranks) for name in findings["locked"][f"{kind}-{stage}"]["moments"]}
    assert held == {name for name in names if not name.startswith(PREFIX[kind])}


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("tower", ["vision", "text"])
def test_autograd_keeps_nothing_of_a_locked_tower(tower: str, recompute: bool) -> None:
    run = cases.config()
    run.model.checkpoint_activations = recompute
    model = build(run)
    lock(model, OptimConfig(locked=[tower]))
    batch = cases.global_batch(run, 0)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        image, text, _, _ = model(batch.large if tower == "vision" else None, None, batch.tokens * (tower == "text"))
        features = image if tower == "vision" else text
    if tower == "text":
        assert kept == []
    assert not features.requires_grad
    other = text if tower == "vision" else model(batch.large, None, None)[0]
    assert other.requires_grad


def test_groups_leave_it_out_and_the_words_count_it() -> None:
    model = cases.first_model(cases.config())
    optim = OptimConfig(locked=["vision"])
    lock(model, optim)
    still = sum(p.numel() for name, p in model.named_parameters() if name.startswith("visual."))
    total = sum(p.numel() for p in model.parameters())
    assert frozen(model.named_parameters(), optim) == f"locked {still:,} of {total:,} weights (optim.locked vision)"
    grouped = {id(p) for group in parameter_groups(model.named_parameters(), optim) for p in group["params"]}
    assert grouped == {id(p) for name, p in model.named_parameters() if not name.startswith("visual.")}


def test_a_rule_for_a_locked_tower_alone_is_a_mistake() -> None:
    model = cases.first_model(cases.config())
    optim = OptimConfig(locked=["text"], rules=[{"pattern": r"^text\.", "lr": 0.5}])
    lock(model, optim)
    with pytest.raises(ValueError, match=r"\['\^text\\\\\.'\] match no parameter that is trained"):
        parameter_groups(model.named_parameters(), optim)


def test_a_rule_that_freezes_what_is_not_locked_leaves_nothing() -> None:
    model = cases.first_model(cases.config())
    optim = OptimConfig(locked=["text"], rules=[{"pattern": "visual|head", "lr": 0.0}])
    lock(model, optim)
    with pytest.raises(ValueError, match=r"freeze all [\d,]+ weights that are not locked, which leaves nothing"):
        frozen(model.named_parameters(), optim)
    optim.rules[0].pattern = "visual"
    said = frozen(model.named_parameters(), optim)
    assert said.startswith("locked ")
    assert "; frozen " in said
