"""Autocast with float32 parameters: dtypes of losses, tokens and gradients; and losses scaled for float16."""

import pytest
import torch
from torch import nn

from silc_kernels import MultiCropPatchEmbed, contrastive_loss, distill_head_loss, distill_loss, patch_embed
from tests.kernels.torch_features.problems import STATISTICS, TEMPS, K, gradients, problem

HALF = torch.bfloat16


@pytest.fixture
def layers():
    """Two float32 layers under autocast: their outputs are bfloat16."""
    torch.manual_seed(0)
    return nn.Linear(6, 8), nn.Linear(6, 8)


def autocast():
    return torch.autocast("cpu", HALF)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_contrastive_loss(layers, kind):
    scale = torch.tensor([5.0], requires_grad=True)
    with autocast():
        image, text = (layer(torch.randn(4, 6)) for layer in layers)
        loss = contrastive_loss(image, text, scale, torch.zeros(1), kind=kind)
    assert (image.dtype, loss.dtype) == (HALF, torch.float32)
    assert torch.autograd.grad(loss, image, retain_graph=True)[0].dtype == HALF
    loss.backward()
    assert scale.grad.dtype == layers[0].weight.grad.dtype == torch.float32


def test_distill_loss(layers):
    with autocast():
        logits, targets = (layer(torch.randn(2, 4, 6)) for layer in layers)
        loss = distill_loss(logits, targets, torch.zeros(8), **TEMPS)
    assert (logits.dtype, loss.dtype) == (HALF, torch.float32)
    assert torch.autograd.grad(loss, logits)[0].dtype == HALF


@pytest.mark.parametrize("weight_dtype", [torch.float32, HALF])
def test_distill_head_loss(layers, weight_dtype):
    """A weight in float32 keeps its gradient in float32; cast by hand, so does the parameter's."""
    parameter = torch.randn(K, 8, requires_grad=True)
    with autocast():
        student, teacher = (layer(torch.randn(2, 4, 6)) for layer in layers)
        weight = parameter.to(weight_dtype)
        loss = distill_head_loss(student, teacher, weight, weight.detach(), torch.zeros(K), **TEMPS)
    of_student, of_weight = torch.autograd.grad(loss, (student, weight), retain_graph=True)
    assert (loss.dtype, of_student.dtype, of_weight.dtype) == (torch.float32, HALF, weight_dtype)
    loss.backward()
    assert parameter.grad.dtype == torch.float32


def test_patch_embed():
    of = problem("patch_embed")
    crops, weight, bias, positions, prefix = of.inputs
    module = MultiCropPatchEmbed(8, 8, (3, 3), prefix_tokens=1)
    with autocast():
        assert of.call(*of.inputs).dtype == module([crops]).dtype == torch.float32
        half = patch_embed([crops], weight, bias, [positions], prefix=prefix, out_dtype=HALF, **STATISTICS)
    assert half.dtype == HALF
    assert {gradient.dtype for gradient in gradients(half, of)} == {torch.float32}


@pytest.mark.parametrize("op", ["softmax", "sigmoid", "distill_loss", "distill_head_loss"])
def test_a_loss_is_scaled_before_its_gradients_are_rounded(op):
    """What GradScaler is for: gradients below float16's smallest number survive."""
    of = problem(op, dtype=torch.float16)
    assert of.call(*of.inputs).dtype == torch.float32
    trained = [of.inputs[place] for place in of.trained]
    factor = 2.0**-30
    lost = torch.autograd.grad(of.call(*of.inputs) * factor, trained)
    scaled = torch.autograd.grad(of.call(*of.inputs) * factor * 2.0**30, trained)
    expected = torch.autograd.grad(of.call(*of.inputs), trained)
    assert not lost[0].any()
    for mine, theirs in zip(scaled, expected, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("op", ["softmax", "sigmoid", "distill_loss", "distill_head_loss", "patch_embed"])
def test_a_large_scale_changes_no_digit(op):
    of = problem(op)
    trained = [of.inputs[place] for place in of.trained]
    plain = torch.autograd.grad(of.call(*of.inputs).sum(), trained)
    large = torch.autograd.grad(of.call(*of.inputs).sum() * 2.0**16, trained)
    assert all(torch.equal(mine, theirs * 2.0**16) for mine, theirs in zip(large, plain, strict=True))
