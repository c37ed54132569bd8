"""A step with something not finite in it moves nothing, on any rank, and is reported."""

from __future__ import annotations

import pytest

from tests.train import cases, faults

EVERYWHERE = [f"shard/99-{sample}" for sample in range(cases.GLOBAL_BATCH)]
BLAMED = {"sample": [faults.BAD_KEY], "crop": [faults.BAD_KEY], "gradient": EVERYWHERE, "loss": EVERYWHERE}
PLANTED = {name: planted for name, *_, planted in faults.CASES}
ALL = [(fault, name) for name, planted in PLANTED.items() for fault in planted]
# Owner, ranks, and a part of the words.
OWNERS = {
    "sample": ("samples", [1], "the features of 1 sample are not finite on rank 1"),
    "crop": ("samples", [1], "the features of 1 sample are not finite on rank 1"),
    "gradient": ("gradient", [], "the losses are finite, the gradient is not: that of head.mlp.0.weight"),
    "student": ("student", [1], f"not finite since step 1: {faults.STUDENT_WEIGHT} on rank 1"),
    "teacher": (
        "teacher",
        [1],
        f"the teacher's weights are not finite since step 1: {faults.TEACHER_WEIGHT} on rank 1",
    ),
    "center": ("center", [1], "the center of the teacher's outputs is not finite since step 1 on rank 1"),
    "scale": ("scale", [1], "logit_scale is not finite since step 1 on rank 1"),
    "loss": ("loss", [1], "contrastive loss"),
}


@pytest.mark.parametrize(("fault", "where"), ALL)
def test_nothing_moves_on_any_rank(launched, fault: str, where: str) -> None:
    """Bitwise: masters, moments, working weights, teacher, center, scale and its moments."""
    for findings in launched(2):
        found = findings["discarded"][where]["seen"][fault]
        assert (found["applied"], found["moved"]) == (False, [])


@pytest.mark.parametrize("where", PLANTED)
def test_the_run_goes_on_as_if_the_batches_had_not_been(launched, where: str) -> None:
    """The clean steps around the bad ones end bit for bit where they end without them."""
    for findings in launched(2):
        assert findings["discarded"][where]["wrong_end"] == []


@pytest.mark.parametrize(("fault", "where"), ALL)
def test_the_owner_is_named_on_every_rank(launched, fault: str, where: str) -> None:
    """What it is and on which rank; the one sample that did it; every sample of the batch when no state and no sample's
    own features show it."""
    for findings in launched(2):
        found = findings["discarded"][where]["seen"][fault]["fault"]
        owner, ranks, words = OWNERS[fault]
        assert (found["owner"], found["ranks"], found["keys"]) == (owner, ranks, BLAMED.get(fault, []))
        assert words in found["words"]
        assert found["way_out"]


@pytest.mark.parametrize("where", PLANTED)
def test_discarded_steps_are_counted_and_logged(launched, where: str) -> None:
    position = (faults.CLEAN - 1) * cases.GLOBAL_BATCH
    for findings in launched(2):
        found = findings["discarded"][where]
        assert found["counters"]["skipped_steps"] == len(PLANTED[where])
        assert found["counters"]["step"] == faults.CLEAN
        for fault, row in zip(PLANTED[where], found["log"], strict=True):
            owner, ranks, words = OWNERS[fault]
            assert words in row.pop("what")
            expected = {"step": faults.CLEAN - 1, "position": position, "owner": owner, "ranks": ranks}
            assert row == expected | {"keys": BLAMED.get(fault, [])}


def test_too_many_in_a_row_end_the_run(launched) -> None:
    """On every rank, after train.max_bad_steps, with the weights of the last good step."""
    for findings in launched(2):
        found = findings["stopped"]
        assert found["message"].startswith(f"{faults.MAX_BAD} steps in a row were not finite (train.max_bad_steps=")
        assert "skipped_steps.jsonl" in found["message"]
        assert (found["counters"]["step"], found["counters"]["skipped_steps"]) == (1, faults.MAX_BAD)
        assert [row["keys"] for row in found["log"]] == [[faults.BAD_KEY]] * faults.MAX_BAD


def test_a_rank_without_data_ends_the_run_for_all(launched) -> None:
    """With a checkpoint of the last step and the rank's name, and without a rank that waits for another."""
    for findings in launched(2):
        found = findings["without_data"]
        assert found["message"].startswith("far/away.tar could not be read (rank 1, at step 1 of 3; checkpoint ")
        assert found["message"].endswith("train.resume=auto continues from it)")
        assert (found["step"], found["saved"]) == (1, "step_00000001")
        assert (found["elsewhere"]["step"], found["elsewhere"]["saved"]) == (5, "step_00000005")
