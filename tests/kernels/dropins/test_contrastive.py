"""docs/ops/contrastive_loss.md: its ClipLoss and SigLipLoss against open_clip's, on one rank, on two, in its loop."""

import argparse
import copy

import open_clip
import open_clip.loss
import open_clip_train.main
import pytest
import torch
import torch.multiprocessing as mp
from open_clip_train.train import train_one_epoch

from tests.kernels.dropins.pages import run
from tests.kernels.dropins.ranks import WORLD, work
from tests.kernels.oracles import unit

THEIRS = {"ClipLoss": open_clip.ClipLoss, "SigLipLoss": open_clip.loss.SigLipLoss}
LOSSES = pytest.mark.parametrize("name", THEIRS)


def leaves(n=12, d=16, dtype=torch.float64):
    features = unit(n, d, seed=1, dtype=dtype), unit(n, d, seed=2, dtype=dtype)
    scalars = torch.tensor(20.0, dtype=torch.float64), torch.tensor(-7.0, dtype=torch.float64)
    return [x.requires_grad_() for x in (*features, *scalars)]


def solved(loss, inputs):
    value = loss(*inputs, output_dict=True)["contrastive_loss"]
    gradients = torch.autograd.grad(value, inputs, allow_unused=True, materialize_grads=True)
    return value.detach(), *gradients


@LOSSES
def test_one_rank_gives_open_clips_value_and_gradients(name):
    inputs = leaves()
    found = solved(run("contrastive_loss")[name](rank=0, world_size=1), inputs)
    for mine, theirs in zip(found, solved(THEIRS[name](rank=0, world_size=1), inputs), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


@LOSSES
def test_without_output_dict_it_is_the_loss_itself(name):
    inputs = leaves()
    loss = run("contrastive_loss")[name]()
    assert torch.equal(loss(*inputs), loss(*inputs, output_dict=True)["contrastive_loss"])


@LOSSES
def test_under_autocast_products_are_in_its_dtype(name):
    """As open_clip's, but not rounded: nearer to float32 than open_clip's value."""
    inputs = [x.detach().float() for x in leaves(64, 32)]
    exact = THEIRS[name]()(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        mine, theirs = run("contrastive_loss")[name]()(*inputs), THEIRS[name]()(*inputs)
    rounded = run("contrastive_loss")[name]()(*(x.bfloat16() for x in inputs[:2]), *inputs[2:])
    assert mine.dtype == torch.float32
    assert torch.equal(mine, rounded)
    assert abs(mine - exact) < abs(theirs.float() - exact) + 1e-3


def test_two_ranks_follow_the_conventions_of_the_page(tmp_path):
    """Every way of open_clip's two losses, over gloo; see ranks.py."""
    context = mp.get_context("spawn")
    queue = context.Queue()
    spawned = mp.spawn(work, (str(tmp_path / "store"), queue), nprocs=WORLD, join=False, start_method="spawn")
    results = dict(queue.get(timeout=240) for _ in range(WORLD))
    for process in spawned.processes:
        process.join(30)
    assert results == dict.fromkeys(range(WORLD))


@LOSSES
def test_numbers_that_are_no_tensors(name):
    image, text, scale, bias = leaves()
    loss = run("contrastive_loss")[name]()
    torch.testing.assert_close(loss(image, text, 20.0, -7.0), loss(image, text, scale, bias))


@LOSSES
def test_more_ranks_than_torch_distributed_has_are_refused(name):
    loss = run("contrastive_loss")[name](rank=1, world_size=2)
    with pytest.raises(ValueError, match=f"{name}: world_size is 2, torch.distributed has 1 ranks"):
        loss(*leaves())


def test_horovod_is_refused():
    with pytest.raises(ValueError, match="Horovod is not supported; start the ranks with torchrun"):
        run("contrastive_loss")["ClipLoss"](use_horovod=True)


class Loader:
    """Batches of images and tokens, as open_clip's loop wants them."""

    num_batches, num_samples = 4, 32

    def __iter__(self):
        generator = torch.Generator().manual_seed(0)
        for _ in range(self.num_batches):
            images = torch.randn(8, 3, 16, 16, generator=generator)
            yield images, torch.randint(1, 40, (8, 8), generator=generator)


class Data:
    dataloader = Loader()

    def set_epoch(self, epoch):
        pass


def options(**change):
    usual = {
        "device": "cpu",
        "precision": "fp32",
        "distill": False,
        "accum_freq": 1,
        "skip_scheduler": True,
        "grad_clip_norm": None,
        "horovod": False,
        "log_every_n_steps": 100,
        "batch_size": 8,
        "rank": 0,
        "world_size": 1,
        "local_rank": 0,
        "log_local": True,
        "wandb": False,
        "model": "tiny",
        "local_loss": True,
        "gather_with_grad": True,
        "siglip": False,
        "loss_dist_impl": None,
    }
    return argparse.Namespace(**{**usual, **change})


@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize("siglip", [False, True])
def test_open_clips_training_loop_runs_with_it_unchanged(siglip, accumulated, monkeypatch):
    torch.manual_seed(0)
    vision = open_clip.model.CLIPVisionCfg(layers=1, width=32, head_width=16, patch_size=8, image_size=16)
    words = open_clip.model.CLIPTextCfg(context_length=8, vocab_size=40, width=32, heads=2, layers=1)
    first = open_clip.CLIP(16, vision, words, init_logit_bias=-10.0 if siglip else None, output_dict=True)
    monkeypatch.setattr(open_clip_train.main, "create_loss", open_clip.create_loss)
    args = options(siglip=siglip, accum_freq=accumulated)
    trained = []
    for from_page in (False, True):
        if from_page:
            run.cache_clear()
            run("contrastive_loss")  # its last block replaces create_loss
        loss, model = open_clip_train.main.create_loss(args), copy.deepcopy(first)
        assert type(loss).__module__ == ("contrastive_loss" if from_page else "open_clip.loss")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        train_one_epoch(model, {"train": Data()}, loss, 0, optimizer, None, None, None, args)
        trained.append(dict(model.named_parameters()))
    theirs, mine = trained
    assert not torch.equal(mine["logit_scale"], first.logit_scale)
    for key, parameter in mine.items():
        torch.testing.assert_close(parameter, theirs[key], rtol=1e-4, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")
