"""Calls are compared between ranks, on CUDA without a wait where a rank repeats what all agreed on: here over gloo,
with numbers that arrive when the test says so.
"""

import pytest
import torch
import torch.multiprocessing as mp

from silc_kernels.common.collectives import Numbers, Ranks
from silc_kernels.contrastive import agreement
from silc_kernels.contrastive.agreement import PLANS, Agreement, Call, RankCall
from tests.kernels.contrastive.deferred_worker import WORLD, work

CPU = torch.device("cpu")


class Late(Numbers):
    """Arrives when `arrived` is set; `waits` counts who reads it before."""

    arrived = False
    waits = 0

    def ready(self) -> bool:
        return Late.arrived

    def read(self) -> list[list[int]]:
        Late.waits += not Late.arrived
        return super().read()


class OtherRank(Ranks):
    """Two ranks, the other one's numbers as the test sets them."""

    other: RankCall

    def start_numbers(self, numbers, device) -> Numbers:
        return Late(torch.tensor([list(numbers), OtherRank.other.numbers()]), None)


RANKS = OtherRank("op", 2, 0, None)


def called(kind=1, node=7, plan="auto"):
    return RankCall(node, 1, 4, 8, 0, 0, Call(kind, PLANS.index(plan), 4096, 1, 1, 1))


@pytest.fixture(autouse=True)
def late(monkeypatch):
    monkeypatch.setattr(agreement, "defers", lambda device: True)
    Late.arrived, Late.waits = False, 0
    OtherRank.other = called()


def test_only_a_call_that_is_another_one_waits():
    agreed = Agreement()
    assert not agreed.recompute(RANKS, called(), CPU)
    assert Late.waits == 1
    for _ in range(5):
        assert not agreed.recompute(RANKS, called(), CPU)
    assert Late.waits == 1
    OtherRank.other = called(kind=0)
    agreed.recompute(RANKS, called(kind=0), CPU)
    assert Late.waits == 7  # for the five before, and its own


def test_the_plan_of_the_agreed_call_is_remembered():
    OtherRank.other = called(node=8)
    agreed = Agreement()
    assert all(agreed.recompute(RANKS, called(), CPU) for _ in range(3))
    OtherRank.other = called(node=8, plan="reduce_scatter")
    assert not agreed.recompute(RANKS, called(plan="reduce_scatter"), CPU)


def test_a_difference_is_told_when_it_has_arrived_and_the_next_call_waits():
    agreed = Agreement()
    agreed.recompute(RANKS, called(), CPU)
    OtherRank.other = called(kind=0)
    agreed.recompute(RANKS, called(), CPU)  # goes on
    agreed.recompute(RANKS, called(), CPU)  # not there yet
    Late.arrived = True
    with pytest.raises(ValueError, match=r"op: .*kind \['softmax', 'sigmoid'\]"):
        agreed.recompute(RANKS, called(), CPU)
    Late.arrived, Late.waits = False, 0
    with pytest.raises(ValueError, match="kind"):
        agreed.recompute(RANKS, called(), CPU)
    assert Late.waits == 1


def test_on_a_cpu_every_call_waits(monkeypatch):
    monkeypatch.undo()
    OtherRank.other = called()
    agreed = Agreement()
    for count in range(1, 4):
        agreed.recompute(RANKS, called(), CPU)
        assert Late.waits == count


def test_a_capture_sends_nothing(monkeypatch):
    monkeypatch.setattr(agreement, "capturing", lambda device: True)
    agreed = Agreement()
    with pytest.raises(ValueError, match=r'plan "auto" asks the other ranks.*once before the capture'):
        agreed.recompute(RANKS, called(), CPU)
    assert agreed.recompute(RANKS, called(plan="recompute"), CPU)
    monkeypatch.setattr(agreement, "capturing", lambda device: False)
    agreed.recompute(RANKS, called(), CPU)
    monkeypatch.setattr(agreement, "capturing", lambda device: True)
    monkeypatch.setattr(OtherRank, "start_numbers", None)
    assert not agreed.recompute(RANKS, called(), CPU)


def test_processes_that_do_not_wait(tmp_path):
    """2 and 4 gloo processes; see deferred_worker.py."""
    queue = mp.get_context("spawn").Queue()
    spawned = mp.spawn(work, (str(tmp_path / "store"), queue), nprocs=WORLD, join=False, start_method="spawn")
    results = dict(queue.get(timeout=240) for _ in range(WORLD))
    for process in spawned.processes:
        process.join(30)
    assert results == dict.fromkeys(range(WORLD))
