"""What is under way beside the compute, in which order; the collectives themselves run in contrastive/worker.py."""

import functools

import pytest
import torch
from torch import Tensor

from silc_kernels import contrastive_loss
from silc_kernels.common.collectives import Behind, Pending, Ranks


class Recorded(Pending):
    def wait(self) -> Tensor:
        log.append(f"wait {self.result.flatten()[0]:.0f}")
        return super().wait()


class RecordedRanks(Ranks):
    def start_all_gather(self, tensor: Tensor) -> Pending:
        log.append(f"start {tensor.flatten()[0]:.0f}")
        return Recorded(self, "all_gather", torch.cat([tensor] * self.size))


log: list[str] = []


@pytest.fixture(autouse=True)
def empty_log():
    log.clear()


@pytest.mark.parametrize("rounds", [1, 2])
def test_the_next_slice_is_on_its_way_while_one_is_used(rounds):
    parts = [torch.full((4, 3), float(number)) for number in range(3)]
    slices = RecordedRanks("op", 2, 0, None).gather_ahead(parts, rounds)
    assert log == ["start 0"]
    for gathered in slices:
        assert gathered.shape == (8, 3)
        log.append(f"use {gathered[0, 0]:.0f}")
    once = ["wait 0", "start 1", "use 0", "wait 1", "start 2", "use 1", "wait 2"]
    between = ["start 0", "use 2"]
    assert log == ["start 0", *(once + between) * (rounds - 1), *once, "use 2"]


def test_a_single_slice_is_gathered_once():
    slices = RecordedRanks("op", 2, 0, None).gather_ahead([torch.zeros(4, 3)], rounds=2)
    assert [gathered.shape for gathered in slices] == [(8, 3)] * 2
    assert log.count("start 0") == 1


def test_one_is_finished_before_the_next_starts():
    ranks, behind, used = RecordedRanks("op", 1, 0, None), Behind(), []
    for number in (1.0, 2.0):
        start = functools.partial(ranks.start_all_gather, torch.tensor([number]))
        behind.put(start, lambda result: used.append(float(result)))
        assert len(used) == number - 1
    behind.finish()
    behind.finish()
    assert used == [1.0, 2.0]
    assert log == ["start 1", "wait 1", "start 2", "wait 2"]


def test_a_group_without_process_groups_is_named():
    features = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="contrastive_loss: group is given but no process group is initialised"):
        contrastive_loss(features, features, torch.ones(1), group=object())
