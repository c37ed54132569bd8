"""patch_embed by Triton in torch's own machinery: opcheck, one compiled graph, checkpointing, a tower in training."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from silc_kernels import MultiCropPatchEmbed, patch_embed
from tests.kernels.patch_embedding.problems import IMAGENET, pixels, problem, trained


def small(device, prefix=1):
    """Two resolutions, in float32."""
    crops, weight, bias, tables, before = problem([(2, 16, 16), (3, 8, 16)], 8, 12, prefix, torch.float32)
    leaf = lambda x: None if x is None else x.detach().to(device).requires_grad_()  # noqa: E731
    return [c.to(device) for c in crops], leaf(weight), leaf(bias), [leaf(table) for table in tables], leaf(before)


@pytest.mark.parametrize("prefix", [0, 1])
def test_the_operators_pass_opcheck(device, prefix):
    crops, weight, bias, tables, before = small(device, prefix)
    mean, std = (list(values) for values in IMAGENET.values())
    patch_embed(crops, weight, bias, tables, **IMAGENET, backend="triton")  # defines the operators
    operators = torch.ops.silc_kernels
    forward = (crops, weight, bias, tables, before, mean, std, torch.float32)
    torch.library.opcheck(operators.patch_embed_triton, forward)
    rows = 2 * (4 + prefix) + 3 * (2 + prefix)
    backward = (torch.randn(rows, 12, device=device), crops, 8, [4, 2], prefix, mean, std, torch.float32)
    torch.library.opcheck(operators.patch_embed_triton_backward, backward)


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_compiles_to_one_graph(device, backend):
    crops, weight, bias, tables, before = small(device)
    inputs = trained(weight, bias, tables, before)
    call = lambda: patch_embed(crops, weight, bias, tables, **IMAGENET, prefix=before, backend=backend).sin()  # noqa: E731
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(), call())
    gradients = torch.autograd.grad(compiled().sum(), inputs)
    for mine, theirs in zip(gradients, torch.autograd.grad(call().sum(), inputs), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_the_module_compiles_to_one_graph(device):
    module = MultiCropPatchEmbed(12, 8, (4, 4), prefix_tokens=1, backend="triton").to(device)
    crops = [pixels(2, 3, 32, 32).to(device), pixels(3, 3, 16, 24).to(device)]
    torch.testing.assert_close(torch.compile(module, fullgraph=True, backend="aot_eager")(crops), module(crops))


def test_checkpointing_gives_the_same_gradients(device):
    crops, weight, bias, tables, before = small(device)
    inputs = trained(weight, bias, tables, before)
    call = lambda: patch_embed(crops, weight, bias, tables, **IMAGENET, prefix=before, backend="triton").sin()  # noqa: E731
    expected = torch.autograd.grad(call().sum(), inputs)
    again = torch.autograd.grad(checkpoint(call, use_reentrant=False).sum(), inputs)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(again, expected, strict=True))


def test_a_tower_trains_as_with_plain_torch(device, needs):
    """A few steps on global and local crops, tables resized: the same losses from either backend."""
    needs("pydantic")  # the trainer's configuration does
    from silc.config import VisionConfig
    from silc.model import VisionTower, initialize
    from silc.model.vision import Pixels

    crops = [pixels(4, 3, 32, 32, seed=1).to(device), pixels(8, 3, 16, 16, seed=2).to(device)]
    target = torch.randn(12, 32, generator=torch.Generator().manual_seed(3)).to(device)
    losses = {}
    for backend in ("torch", "triton"):
        vision = VisionConfig(image_size=32, patch_size=8, width=32, depth=2, heads=2)
        tower = VisionTower(vision, pixels=Pixels(backend=backend))
        initialize(tower, seed=1)
        tower.to(device)
        optimizer = torch.optim.SGD(tower.parameters(), lr=0.05)
        losses[backend] = []
        for _ in range(4):
            loss = (torch.cat(tower(crops)) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[backend].append(loss.item())
    assert losses["triton"] == pytest.approx(losses["torch"], rel=1e-5)
    assert losses["triton"][-1] < losses["triton"][0]
