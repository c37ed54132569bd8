"""What each of two processes checks of docs/ops/contrastive_loss.md; failures come back as text through a queue."""

import itertools
import traceback

import open_clip
import open_clip.loss
import pytest
import torch
import torch.distributed as dist

from tests.kernels.dropins.pages import run
from tests.kernels.oracles import contrastive, unit

WORLD = 2
PAIRS, WIDTH = 6, 8


def work(rank, store, queue):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD)
    try:
        for local_loss, gather_with_grad in itertools.product((False, True), repeat=2):
            check_clip(rank, local_loss, gather_with_grad)
        for way in ("bidir", "shift", "reduce", "gather"):
            check_siglip(rank, way)
        for name in ("ClipLoss", "SigLipLoss"):
            check_average(rank, name)
            check_a_mistake_of_one(rank, name)
        queue.put((rank, None))
    except BaseException:
        queue.put((rank, traceback.format_exc()))
        raise


def batch():
    """The same on all ranks: image, text, scale, bias."""
    features = (unit(WORLD * PAIRS, WIDTH, seed=seed) for seed in (1, 2))
    return [*features, torch.tensor(9.0, dtype=torch.float64), torch.tensor(-4.0, dtype=torch.float64)]


def solve(loss, rank):
    """Value, gradients of this rank's image and text, and of scale and bias; the last two averaged over ranks."""
    image, text, scale, bias = batch()
    mine = slice(rank * PAIRS, (rank + 1) * PAIRS)
    inputs = [x.clone().requires_grad_() for x in (image[mine], text[mine], scale, bias)]
    value = loss(*inputs)
    gradients = torch.autograd.grad(value, inputs, allow_unused=True, materialize_grads=True)
    return value.detach(), *gradients[:2], *map(mean, gradients[2:])


def mean(x):
    x = x.detach().clone()
    dist.all_reduce(x)
    return x / WORLD


def same(mine, theirs, case):
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12, msg=lambda m: f"{case}: {m}")


def check_clip(rank, local_loss, gather_with_grad):
    options = {
        "local_loss": local_loss,
        "gather_with_grad": gather_with_grad,
        "cache_labels": True,
        "rank": rank,
        "world_size": WORLD,
    }
    case = f"local_loss {local_loss} gather_with_grad {gather_with_grad}"
    mine = solve(run("contrastive_loss")["ClipLoss"](**options), rank)
    theirs = solve(open_clip.ClipLoss(**options), rank)
    same(mine[0], mean(theirs[0]) if local_loss else theirs[0], f"{case}: value")
    same(mine[3], theirs[3], f"{case}: scale")
    for name, ours, other in zip(("image", "text"), mine[1:3], theirs[1:3], strict=True):
        if gather_with_grad:
            same(ours, other, f"{case}: {name}")
        elif not local_loss:
            same(ours, WORLD * other, f"{case}: {name}")
        else:
            assert not torch.allclose(ours, other, rtol=1e-3), f"{case}: {name}: the page says that they differ"
            assert not torch.allclose(ours, WORLD * other, rtol=1e-3), f"{case}: {name}"


def check_siglip(rank, way):
    options = {"rank": rank, "world_size": WORLD, "dist_impl": way}
    mine = solve(run("contrastive_loss")["SigLipLoss"](**options), rank)
    theirs = solve(open_clip.loss.SigLipLoss(**options), rank)
    same(mine[0], mean(theirs[0]), f"{way}: value")
    for name, ours, other in zip(("image", "text", "scale", "bias"), mine[1:], theirs[1:], strict=True):
        same(ours, other, f"{way}: {name}")


def check_a_mistake_of_one(rank, name):
    """An error at once, before the first collective: the next call finds the other rank where it waits."""
    image, text, scale, bias = batch()
    loss = run("contrastive_loss")[name]()
    if rank == 0:
        with pytest.raises(ValueError, match="image has shape"):
            loss(image[:, :-1], text, scale, bias)
    loss(image, text, scale, bias)


def check_average(rank, name):
    """The average over ranks is the gradient of one process on the whole batch."""
    whole = [x.requires_grad_() for x in batch()]
    expected = contrastive(whole[0][None], *whole[1:], "softmax" if name == "ClipLoss" else "sigmoid")
    gradients = torch.autograd.grad(expected, whole, allow_unused=True, materialize_grads=True)
    value, *mine = solve(run("contrastive_loss")[name](), rank)
    same(value, expected.detach(), f"{name}: value")
    rows = slice(rank * PAIRS, (rank + 1) * PAIRS)
    for ours, theirs in zip(mine, (gradients[0][rows], gradients[1][rows], *gradients[2:]), strict=True):
        same(ours / WORLD if ours.dim() else ours, theirs, name)
