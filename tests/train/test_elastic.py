"""A run goes on at any number of ranks and in any ZeRO stage: the same samples at every step, and the same losses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.train.conftest import launch
from tests.train.elastic import BATCH, PHASES, STEPS

WORKER = Path(__file__).with_name("elastic.py")


@pytest.fixture(scope="module")
def phases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What every phase left, one after another."""
    folder = tmp_path_factory.mktemp("elastic")
    found = {}
    for name, phase in PHASES.items():
        log = folder / f"{name}.log"
        launch([WORKER, folder, name], phase.ranks, log)
        left = folder / f"{name}.json"
        assert left.exists(), log.read_text()[-6000:]
        found[name] = json.loads(left.read_text()) | {"log": log.read_text()}
    return found


PARTS = ("first", "second", "third")


def test_two_ranks_one_and_three_take_the_same_samples_at_every_step(phases) -> None:
    keys = {step: keys for name in PARTS for step, keys in phases[name]["keys"].items()}
    assert list(map(int, keys)) == list(range(1, STEPS + 1))
    assert keys == phases["whole"]["keys"]
    assert {len(each) for each in keys.values()} == {BATCH}


def test_the_losses_are_those_of_the_run_in_one_go(phases) -> None:
    """Through ZeRO 1, 3 and 2. Other sums over ranks round differently, which is all that may be seen."""
    parts = {step: losses for name in PARTS for step, losses in phases[name]["losses"].items()}
    assert len(parts) == STEPS
    for step, losses in phases["whole"]["losses"].items():
        assert parts[step] == pytest.approx(losses, rel=1e-5), step


def test_each_part_begins_where_the_one_before_was_stopped(phases) -> None:
    assert [phases[name]["resumed"] for name in PARTS] == [0, 7, 13]
    assert [phases[name]["stopped"].split(";")[0] for name in PARTS[:2]] == [
        f"SIGUSR1 at step {step} of {STEPS}" for step in (7, 13)
    ]
    assert "at step 7, written by 2 ranks, on 1 rank" in phases["second"]["log"]
    assert "at step 13, written by 1 rank, on 3 ranks" in phases["third"]["log"]


def test_the_state_comes_back_bit_for_bit(phases) -> None:
    """Masters, teacher, center and scale, as the part before left them; the moments show in the losses that follow."""
    assert phases["first"]["state"].keys() == phases["second"]["state"].keys()
    for name, digest in phases["second"]["started"].items():
        assert digest == phases["first"]["state"][name], name
    for name, digest in phases["third"]["started"].items():
        assert digest == phases["second"]["state"][name], name
