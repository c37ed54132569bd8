"""A run that may go back leaves a bad stretch of data out, and ends as if that stretch had never been."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from silc.distributed import World
from silc.model.scale import LogitScale
from silc.train.rewind import Return
from silc.train.state import TrainState
from tests.train import cases, rewinds

B = cases.GLOBAL_BATCH
KINDS = [(ranks, f"{kind}-stage{stage}") for ranks, rows in rewinds.CASES.items() for kind, stage, *_ in rows]
GOOD = [(ranks, name) for ranks, name in KINDS if name.split("-")[0] in ("stretch", "poison", "spike")]
# Batches that were trained on in the end, the step that was left, and the batches that were left out: [first, last).
ENDS = {
    "stretch": ([0, 1, 5, 6, 7, 8], 3, (2, 5)),
    "poison": ([0, 1, 6, 7, 8, 9], 4, (2, 6)),
    "spike": ([0, 1, 4, 5, 6, 7], 4, (2, 4)),
}


@pytest.mark.parametrize(("ranks", "name"), GOOD)
def test_it_ends_bit_for_bit_as_without_the_stretch(launched, ranks: int, name: str) -> None:
    """Masters, moments, working copies, teacher, center and scale, on every rank, in every stage; a checkpoint that
    holds what is not finite is passed over for an older one."""
    for findings in launched(ranks):
        found = findings["rewound"][name]
        batches, *_ = ENDS[name.split("-")[0]]
        assert found["message"] == ""
        assert found["trained"] == {step: f"shard/{batch}" for step, batch in enumerate(batches, start=1)}
        assert found["wrong_end"] == []
        assert found["wrong_resumed_end"] == []  # resumed from the checkpoint after it


@pytest.mark.parametrize(("ranks", "name"), GOOD)
def test_position_and_counts_go_on_and_are_in_the_checkpoint(launched, ranks: int, name: str) -> None:
    """So that a run that is resumed after it goes on after the stretch, and may not go back more often."""
    for findings in launched(ranks):
        found = findings["rewound"][name]
        batches, *_ = ENDS[name.split("-")[0]]
        bad = 0 if name.startswith("spike") else rewinds.MAX_BAD
        for counters, step in ((found["counters"], rewinds.STEPS), (found["saved"], 4)):
            position = (batches[step - 1] + 1) * B
            assert [counters[key] for key in ("step", "position", "rewinds", "skipped_steps")] == [
                step,
                position,
                1,
                bad,
            ]


@pytest.mark.parametrize(("ranks", "name"), GOOD)
def test_it_is_in_the_logs(launched, ranks: int, name: str) -> None:
    """Each step once in the metrics, and the stretch beside the steps that were discarded."""
    for findings in launched(ranks):
        found = findings["rewound"][name]
        _, left, (first, last) = ENDS[name.split("-")[0]]
        numbers = {"rewound_from": left, "skipped_from": first * B, "skipped_to": last * B}
        losses = [row["step"] for row in found["metrics"] if "loss" in row]
        assert losses == list(range(1, rewinds.STEPS + 1))
        (row,) = [row for row in found["metrics"] if "loss" not in row]
        assert (row["step"], {key: row[key] for key in numbers}) == (2, numbers)
        (row,) = [row for row in found["skipped_steps"] if row["owner"] == "rewind"]
        assert (row["step"], row["position"], {key: row[key] for key in numbers}) == (2, last * B, numbers)
        assert row["what"] == (
            rewinds.SPIKE
            if name.startswith("spike")
            else f"{rewinds.MAX_BAD} steps in a row were not finite (train.max_bad_steps={rewinds.MAX_BAD})"
        )


@pytest.mark.parametrize(("name", "step", "back"), [("again-stage1", 3, 1), ("early-stage1", 1, 0)])
def test_it_stops_where_it_may_not_or_cannot_go_back(launched, name: str, step: int, back: int) -> None:
    """The second trouble of a run that may go back once, and trouble before the first checkpoint."""
    for findings in launched(1):
        found = findings["rewound"][name]
        assert found["message"].startswith(f"{rewinds.MAX_BAD} steps in a row were not finite")
        assert (found["counters"]["step"], found["counters"]["rewinds"]) == (step, back)


def test_it_says_what_is_left_out():
    done = Return(Path("run/checkpoints/step_00005000"), 9000, 5000, 81_920_000, 147_472_384)
    assert done.words("a reason") == (
        "went back from step 9000 to run/checkpoints/step_00005000, step 5000: a reason; the 65,552,384 samples "
        "from position 81,920,000 to 147,472,384 are left out"
    )


@pytest.mark.parametrize("value", ["1", None, [1]])
def test_a_counter_of_a_checkpoint_is_a_number(value):
    """Those of an earlier version have no count of returns."""
    scale = LogitScale("softmax")
    optimizer = torch.optim.AdamW(scale.parameters())
    state = TrainState(World(0, 1, torch.device("cpu")), None, scale, optimizer, None, torch.zeros(2))
    saved = state.state_dict()
    del saved["counters"]["rewinds"]
    state.load_state_dict(saved)
    assert state.counters.rewinds == 0
    saved["counters"]["rewinds"] = value
    with pytest.raises(TypeError, match="no number"):
        state.load_state_dict(saved)
