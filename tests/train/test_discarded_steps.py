"""A step with something not finite in it moves nothing, on any rank, and is reported."""

from __future__ import annotations

import pytest

from tests.train import cases, faults

EVERYWHERE = [f"shard/99-{sample}" for sample in range(cases.GLOBAL_BATCH)]
BLAMED = {"sample": [faults.BAD_KEY], "crop": [faults.BAD_KEY], "gradient": EVERYWHERE}
ALL = [(fault, f"stage{stage}-x{k}") for fault in faults.FAULTS for stage in cases.STAGES for k in (1, 4)]


@pytest.mark.parametrize(("fault", "where"), ALL)
def test_nothing_moves_on_any_rank(launched, fault: str, where: str) -> None:
    """Bitwise: masters, moments, working weights, teacher, center, scale and its moments."""
    for findings in launched(2):
        found = findings["discarded"][f"{fault}-{where}"]
        assert (found["applied"], found["moved"]) == (False, [])


@pytest.mark.parametrize(("fault", "where"), ALL)
def test_the_run_goes_on_as_if_the_batch_had_not_been(launched, fault: str, where: str) -> None:
    """The clean steps around the bad one end bit for bit where they end without it."""
    for findings in launched(2):
        assert findings["discarded"][f"{fault}-{where}"]["wrong_end"] == []


@pytest.mark.parametrize(("fault", "where"), ALL)
def test_samples_are_named_on_every_rank(launched, fault: str, where: str) -> None:
    """The one sample that did it; every sample of the batch when no sample's own features show it."""
    for findings in launched(2):
        assert findings["discarded"][f"{fault}-{where}"]["bad_keys"] == BLAMED[fault]


@pytest.mark.parametrize(("fault", "where"), ALL)
def test_discarded_steps_are_counted_and_logged(launched, fault: str, where: str) -> None:
    for findings in launched(2):
        found = findings["discarded"][f"{fault}-{where}"]
        assert found["counters"]["skipped_steps"] == 1
        assert found["counters"]["step"] == faults.CLEAN
        position = (faults.CLEAN - 1) * cases.GLOBAL_BATCH
        assert found["log"] == [{"step": faults.CLEAN - 1, "position": position, "keys": BLAMED[fault]}]


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
