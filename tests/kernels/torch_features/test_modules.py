"""Checkpointed calls, and copies of the module that holds parameters."""

import copy
import io
import pickle

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from silc_kernels import MultiCropPatchEmbed
from tests.kernels.torch_features.problems import gradients, pixels, problem


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("op", ["softmax", "sigmoid", "patch_embed", "resize_positions"])
def test_checkpointing_gives_the_same_gradients(op, reentrant):
    of = problem(op)
    expected = [gradient.clone() for gradient in gradients(of.call(*of.inputs), of)]
    again = checkpoint(lambda *inputs: of.call(*inputs) * 1, *of.inputs, use_reentrant=reentrant)
    again.square().sum().backward()
    for place, theirs in zip(of.trained, expected, strict=True):
        assert torch.equal(of.inputs[place].grad, theirs)


def saved(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module)), saved])
def test_a_copy_of_the_module_has_its_own_parameters_and_the_same_settings(copied):
    module = MultiCropPatchEmbed(8, 8, (3, 3), mean=(0.4,) * 3, prefix_tokens=2, out_dtype=torch.bfloat16)
    module.bias.requires_grad_(False)
    other, crops = copied(module), [pixels(2)]
    expected = module(crops)
    assert torch.equal(other(crops), expected)
    assert [p.requires_grad for p in other.parameters()] == [p.requires_grad for p in module.parameters()]
    with torch.no_grad():
        other.weight.zero_()
    assert torch.equal(module(crops), expected)
