"""A run that was cut in two is the run in one go."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from silc.train import checkpoint
from tests.train import cases, resume


@pytest.mark.parametrize("run", ["resumed", "resumed_bf16", "resumed_dropping"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_goes_on_bit_for_bit(launched, ranks: int, run: str) -> None:
    """ZeRO-3 on one rank, ZeRO-2 on two, in bf16 a stage less, with drop path and patch dropout ZeRO-1; real shards;
    weights, teacher, center, scale, and the place in the data."""
    for findings in launched(ranks):
        found = findings[run]
        assert found["started"]["step"] == resume.HALF
        assert found["started"]["position"] == resume.HALF * cases.GLOBAL_BATCH
        assert found["whole"].keys() == found["second"].keys()
        assert [name for name, value in found["whole"].items() if not torch.equal(value, found["second"][name])] == []
        places = [(counters["step"], counters["position"]) for counters in found["counters"]]
        assert places == [(resume.STEPS, resume.STEPS * cases.GLOBAL_BATCH)] * 2


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_changed_model_is_refused(launched, ranks: int) -> None:
    for findings in launched(ranks):
        assert "cannot resume from" in findings["resumed"]["refused"]
        assert "model.vision" in findings["resumed"]["refused"]


@pytest.mark.parametrize("ranks", [1, 2])
def test_with_no_step_left_files_say_what_was_trained(launched, ranks: int) -> None:
    """Resumed to be exported and evaluated, with another learning rate and number of steps, which trained nothing."""
    for findings in launched(ranks):
        found = findings["resumed"]["finished"]
        assert (found["step"], found["path"]) == (resume.HALF, findings["resumed"]["saved"])
        assert (found["changed"], found["lr"]) == ([], 1.5e-3)


def test_whole_weights_in_the_checkpoint_are_those_of_its_step(launched) -> None:
    """student.safetensors and teacher.safetensors serve others; they hold fp32 under the model's names."""
    saved = Path(launched(2)[0]["resumed"]["saved"])
    assert checkpoint.find(saved) == saved
    student, teacher = (checkpoint.load_weights(saved, name) for name in ("student", "teacher"))
    end = launched(2)[0]["resumed"]["whole"]
    assert {f"student.{name}": value.shape for name, value in student.items()} == {
        name: value.shape for name, value in end.items() if name.startswith("student.")
    }
    assert teacher.keys() == {name for name in student if name.startswith(("visual.", "head."))}
    assert {value.dtype for value in (*student.values(), *teacher.values())} == {torch.float32}
