"""What each process of the multi-process contrastive test runs; failures come back as text through a queue."""

import itertools
import os
import re
import traceback
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from silc_kernels import center_update, contrastive_loss
from silc_kernels.common.collectives import Ranks
from silc_kernels.contrastive import agreement as contrastive_call
from silc_kernels.contrastive.agreement import Call, RankCall
from silc_kernels.contrastive.passes import Similarities
from tests.kernels.oracles import contrastive, far_below_one_another, normal, relative, unit

WORLD = 4
PAIRS = 5
WIDTH = 6
PLANS = ("reduce_scatter", "recompute")


def work(rank: int, store: str, queue) -> None:
    """Every check on one rank of WORLD; puts (rank, None or a traceback)."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD)
    # new_group is collective: every rank makes every group.
    halves = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    across = [dist.new_group([0, 3]), dist.new_group([1, 2])]
    singles = [dist.new_group([r]) for r in range(WORLD)]
    hasty = [dist.new_group(list(range(WORLD)), timeout=timedelta(seconds=2)) for _ in range(4)]
    try:
        groups = ((None, WORLD), (halves[rank // 2], 2), (singles[rank], 1))
        for (group, size), kind, plan in itertools.product(groups, ("softmax", "sigmoid"), PLANS):
            for views, chunk in ((1, 4096), (2, 2 * size), (1, 3 * size), (2, 1)):
                check_equals_one_process(group, size, kind, plan, views, chunk)
        check_low_precision()
        check_scale_100()
        check_automatic_plan(rank, halves[rank // 2], across[rank in (1, 2)])
        check_text_only()
        check_uneven_batches(rank)
        check_different_calls(rank)
        check_center()
        for kind, (left, never_joined) in (("softmax", hasty[:2]), ("sigmoid", hasty[2:])):
            check_rank_that_leaves(rank, left, kind)
            check_absent_rank(rank, never_joined, kind)
            # The others' errors are to come from their timeouts, not from the end of this process or from its own.
            dist.barrier()
        queue.put((rank, None))
    except BaseException:
        queue.put((rank, traceback.format_exc()))
        raise


def batch(size: int, views: int, dtype=torch.float64):
    """The concatenated batch of `size` ranks, the same on all, and its scale and bias."""
    image, text = unit(views, size * PAIRS, WIDTH, seed=1, dtype=dtype), unit(size * PAIRS, WIDTH, seed=2, dtype=dtype)
    text[1] = text[0]  # a duplicate caption
    leaves = image, text, torch.tensor([7.0], dtype=torch.float64), torch.tensor([-3.0], dtype=torch.float64)
    return [leaf.requires_grad_() for leaf in leaves]


def solve(group, size, leaves, **options):
    """Loss and gradients of this rank's part; features' averaged over ranks and gathered, scalars' averaged."""
    image, text, scale, bias = leaves
    rank = dist.get_rank(group)
    mine = slice(rank * PAIRS, (rank + 1) * PAIRS)
    parts = [x.detach().clone().requires_grad_() for x in (image[:, mine], text[mine], scale, bias)]
    features = parts[0][0] if len(image) == 1 else parts[0]
    loss = contrastive_loss(features, *parts[1:], group=group, **options)
    loss.backward()
    gathered = []
    for part, dim in ((parts[0], 1), (parts[1], 0)):
        pieces = [torch.empty_like(part.grad) for _ in range(size)]
        dist.all_gather(pieces, part.grad.contiguous(), group=group)
        gathered.append(torch.cat(pieces, dim) / size)
    for scalar in parts[2:]:
        dist.all_reduce(scalar.grad, group=group)
        gathered.append(scalar.grad / size)
    return loss.detach(), gathered


def check_equals_one_process(group, size, kind, plan, views, chunk):
    leaves = batch(size, views)
    expected = contrastive(*leaves, kind)
    gradients = torch.autograd.grad(expected, leaves, allow_unused=True)
    loss, actual = solve(group, size, leaves, kind=kind, plan=plan, chunk=chunk)
    case = f"{kind} {plan} size {size} views {views} chunk {chunk}"
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=1e-12, msg=lambda m: f"{case}: loss: {m}")
    for name, mine, theirs in zip(("image", "text", "scale", "bias"), actual, gradients, strict=True):
        if kind == "softmax" and name == "bias":
            theirs = torch.zeros(1, dtype=torch.float64)
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{case}: {n}: {m}")


def check_low_precision():
    leaves = batch(WORLD, 2, torch.bfloat16)
    wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
    expected = torch.autograd.grad(contrastive(*wide, "sigmoid"), wide)
    for plan in PLANS:
        _, actual = solve(None, WORLD, leaves, kind="sigmoid", plan=plan, chunk=8)
        assert actual[0].dtype == torch.bfloat16
        assert max(relative(mine, theirs) for mine, theirs in zip(actual, expected, strict=True)) < 1e-2


def check_scale_100():
    """Columns whose entries all lie far below their rows' largest, on every rank: nothing may underflow."""
    image, text, scale, bias = batch(WORLD, 1, torch.float32)
    with torch.no_grad():
        far_below_one_another(image[0], text)
        scale.fill_(100.0)
    leaves = [x.detach().requires_grad_() for x in (image, text, scale, bias)]
    wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
    expected = contrastive(*wide, "softmax")
    gradients = torch.autograd.grad(expected, wide[:3])
    for plan in PLANS:
        loss, actual = solve(None, WORLD, leaves, plan=plan, chunk=8)
        assert relative(loss, expected) < 1e-4
        assert max(relative(mine, theirs) for mine, theirs in zip(actual[:3], gradients, strict=True)) < 1e-4


def check_automatic_plan(rank, half, across):
    """Images are gathered only where a group's ranks are on several nodes, and every rank decides the same."""
    calls = []
    original, here = Similarities.column_pass, contrastive_call.node
    Similarities.column_pass = lambda self, *args: (calls.append(1), original(self, *args))
    # As launchers count where the last rank is alone on its node: no rank may decide by what it alone knows.
    os.environ["LOCAL_WORLD_SIZE"] = "1" if rank == WORLD - 1 else "3"
    two_nodes = lambda: rank // 2  # noqa: E731
    try:
        for node, group, size, expected in (
            (here, None, WORLD, 0),
            (two_nodes, None, WORLD, 1),
            (two_nodes, half, 2, 0),
            (two_nodes, across, 2, 1),
        ):
            contrastive_call.node = node
            calls.clear()
            solve(group, size, batch(size, 1))
            assert len(calls) == expected, (node, size, calls)
    finally:
        Similarities.column_pass, contrastive_call.node = original, here
        del os.environ["LOCAL_WORLD_SIZE"]


def check_text_only():
    """A locked image tower: only the texts ask for a gradient."""
    image, text, scale, _ = batch(WORLD, 1)
    (expected,) = torch.autograd.grad(contrastive(image, text, scale, None, "softmax"), (text,))
    mine = slice(dist.get_rank() * PAIRS, (dist.get_rank() + 1) * PAIRS)
    part = text.detach()[mine].clone().requires_grad_()
    contrastive_loss(image.detach()[0, mine], part, scale.detach()).backward()
    torch.testing.assert_close(part.grad / WORLD, expected[mine])


def check_uneven_batches(rank):
    features = normal(PAIRS + rank % 2, WIDTH)
    with pytest.raises(ValueError, match=rf"\[\[1, {PAIRS}, {WIDTH}\], \[1, {PAIRS + 1}, {WIDTH}\]"):
        contrastive_loss(features, features, torch.ones(1))


def check_different_calls(rank):
    """One rank calls otherwise: the same error on all, found by the first collective, the one that every call makes."""
    calls = []
    original = Ranks.start_all_gather
    Ranks.start_all_gather = lambda self, tensor: (calls.append(1), original(self, tensor))[1]
    changes = [
        ("dtype of image", "torch.float32", "torch.bfloat16", {"image": normal(PAIRS, WIDTH).bfloat16()}),
        ("dtype of text", "torch.float32", "torch.float16", {"text": normal(PAIRS, WIDTH).half().requires_grad_()}),
        ("kind", "softmax", "sigmoid", {"kind": "sigmoid"}),
        ("plan", "auto", "recompute", {"plan": "recompute"}),
        ("chunk", 4096, 8, {"chunk": 8}),
        ("gradients wanted", ["text"], [], {"text": normal(PAIRS, WIDTH, dtype=torch.float32)}),
    ]
    try:
        for name, usual, other, change in changes:
            features = normal(PAIRS, WIDTH, dtype=torch.float32)
            arguments = {"image": features, "text": features.clone().requires_grad_(), "logit_scale": torch.ones(1)}
            values = [usual] * WORLD
            values[1] = other
            calls.clear()
            with pytest.raises(ValueError, match=re.escape(f"(values by rank): {name} {values}. Make the same call")):
                contrastive_loss(**arguments | (change if rank == 1 else {}))
            assert len(calls) == 1
    finally:
        Ranks.start_all_gather = original


def check_center():
    center, weight = normal(11), normal(11, WIDTH, seed=1)
    features = normal(WORLD, 3, WIDTH, seed=2)
    mine = features[dist.get_rank()].mean(0)
    expected = 0.9 * center + 0.1 * (features.flatten(0, 1) @ weight.T).mean(0)
    torch.testing.assert_close(center_update(center, mine, weight, momentum=0.9), expected)
    torch.testing.assert_close(center_update(center, weight @ mine, momentum=0.9), expected)


def check_rank_that_leaves(rank, hasty, kind):
    """One that says it takes part and then does not: what the others have started ends in an error."""
    if rank == WORLD - 1:
        features = normal(PAIRS, WIDTH)
        sent = RankCall.of(features[None], features, Call(kind == "softmax", 0, 4096, 0, 0, 0))
        Ranks.of("contrastive_loss", hasty).start_numbers(sent.numbers(), features.device)
        return
    features = normal(PAIRS, WIDTH)
    with pytest.raises(RuntimeError, match=f"contrastive_loss: all_gather failed on rank {rank} of {WORLD}"):
        contrastive_loss(features, features, torch.ones(1), kind=kind, group=hasty)


def check_absent_rank(rank, hasty, kind):
    """A rank that never comes is an error that names the op, not a hang."""
    if rank == WORLD - 1:
        return
    features = normal(PAIRS, WIDTH)
    with pytest.raises(RuntimeError, match=f"contrastive_loss: all_gather failed on rank {rank} of {WORLD}"):
        contrastive_loss(features, features, torch.ones(1), kind=kind, group=hasty)


def work_beside_one_that_dies(rank: int, kind: str, store: str, queue) -> None:
    """Rank 1 is gone where it would send its first text gradients; rank 0 puts the error it gets."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    if rank == 1:
        Ranks.start_reduce_scatter = lambda *_: os._exit(1)
    features = normal(PAIRS, WIDTH).requires_grad_()
    try:
        contrastive_loss(features, features, torch.ones(1), kind=kind, plan="reduce_scatter", chunk=4)
    except RuntimeError as error:
        queue.put(str(error))
    queue.close()
    queue.join_thread()
    os._exit(0)  # gloo's threads, their peer gone, now and then abort an orderly exit


def work_in_triton(rank: int, size: int, backend: str, store: str, queue) -> None:
    """The same plans over the kernels, on one rank of `size`; puts (rank, None or a traceback)."""
    torch.set_num_threads(1)
    dist.init_process_group(backend, init_method=f"file://{store}", rank=rank, world_size=size)
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    try:
        for kind, plan, (views, chunk) in itertools.product(("softmax", "sigmoid"), PLANS, ((2, 4096), (1, 3 * size))):
            leaves = [x.detach().to(device).requires_grad_() for x in batch(size, views, torch.float32)]
            found, reference = (
                solve(None, size, leaves, kind=kind, plan=plan, chunk=chunk, backend=name)
                for name in ("triton", "torch")
            )
            torch.testing.assert_close(found, reference, rtol=1e-5, atol=1e-6)
        queue.put((rank, None))
    except BaseException:
        queue.put((rank, traceback.format_exc()))
        raise
