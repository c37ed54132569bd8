"""What a run begins with where train.init names weights, on ranks and in ZeRO stages, and what is refused."""

from __future__ import annotations

import pytest
import torch

from tests.train import begins, cases


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", cases.STAGES)
def test_masters_teacher_center_and_scale(launched, ranks, precision, stage):
    """Masters are the weights to the last bit, also where the forward pass is bf16; the teacher is the student."""
    run = cases.config("sigmoid")
    expected = begins.source(run, with_head=stage != 2).weights
    first = cases.build(run).state_dict()
    for findings in launched(ranks):
        state = findings["begun"][f"{precision}-{stage}"]
        for name in first:
            value = expected.get(name, first[name])  # a head that the weights lack begins as in a run of its own
            if name not in expected:
                assert name.startswith("head.")
            assert torch.equal(state[f"student.{name}"], value), name
            if not name.startswith("text."):
                assert torch.equal(state[f"teacher.{name}"], value), name
        assert not state["center"].any()
        assert state["scale.logit_scale"].tolist() == [begins.SCALE]
        assert state["scale.logit_bias"].tolist() == [begins.BIAS]
