"""What each process of the test of deferred comparisons runs; failures come back as text through a queue."""

import traceback
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from silc_kernels import contrastive_loss
from silc_kernels.common.collectives import Numbers, Ranks
from silc_kernels.contrastive import agreement
from tests.kernels.oracles import normal

WORLD = 4


class Late(Numbers):
    """Over gloo numbers are there at once; a host beside a busy GPU sees them later."""

    arrived = False
    reads = 0

    def ready(self) -> bool:
        return Late.arrived

    def read(self) -> list[list[int]]:
        Late.reads += 1
        return super().read()


def work(rank: int, store: str, queue) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD)
    timeout = timedelta(seconds=2)
    pairs = [dist.new_group(ranks, timeout=timeout) for ranks in ([0, 1], [2, 3])]
    everyone = dist.new_group(list(range(WORLD)), timeout=timeout)
    start = Ranks.start_numbers
    Ranks.start_numbers = lambda *args: Late(start(*args).arriving, None)
    agreement.defers = lambda device: True
    try:
        for group in (pairs[rank // 2], everyone):
            check_agreed_calls_do_not_wait(group)
            check_a_difference_is_named(group)
            # The others' errors are to come from their timeouts, not from the end of this process.
            dist.barrier()
        queue.put((rank, None))
    except BaseException:
        queue.put((rank, traceback.format_exc()))
        raise


def loss(group, kind="softmax"):
    features = normal(5, 6).requires_grad_()
    value = contrastive_loss(features, normal(5, 6, seed=1), torch.ones(1), kind=kind, group=group, chunk=4)
    value.backward()
    return value.detach(), features.grad


def check_agreed_calls_do_not_wait(group):
    """The results are right too: collectives match, though nobody looks at the comparisons."""
    Late.arrived, Late.reads = False, 0
    first = loss(group)
    assert Late.reads == 1
    for _ in range(4):
        torch.testing.assert_close(loss(group), first, rtol=0, atol=0)
    assert Late.reads == 1
    Late.arrived = True
    loss(group)
    assert Late.reads == 5
    loss(group, "sigmoid")  # what all change together is compared at once
    assert Late.reads == 7


def check_a_difference_is_named(group):
    """By the rank whose call is another one at once, by the others at their next call."""
    loss(group)
    Late.arrived = False
    changed = dist.get_rank(group) == 1
    values = ["sigmoid" if index == 1 else "softmax" for index in range(dist.get_world_size(group))]
    difference = rf"kind \['{values[0]}', '{values[1]}'"
    if changed:
        with pytest.raises(ValueError, match=difference):
            loss(group, "sigmoid")
        return
    with pytest.raises(RuntimeError, match="contrastive_loss: all_gather failed"):
        loss(group)
    Late.arrived = True
    with pytest.raises(ValueError, match=difference):
        loss(group)
