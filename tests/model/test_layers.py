"""GELU and linear layer in one: the same function, with the wide activation kept once."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from silc.model import layers
from silc.model.layers import GeluLinear


@pytest.mark.parametrize("shape", [(1, 12), (7, 12), (8, 12), (3, 5, 12)])
@pytest.mark.parametrize("chunk", [1, 24, 1 << 21])
def test_value_and_gradients_are_those_of_the_two_in_a_row(monkeypatch, shape, chunk):
    monkeypatch.setattr(layers, "CHUNK_ELEMENTS", chunk)
    layer = GeluLinear(12, 5).double()
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    expected = functional.linear(functional.gelu(x), layer.weight, layer.bias)
    upstream = torch.randn_like(expected)
    leaves = [x, layer.weight, layer.bias]
    actual = layer(x)
    torch.testing.assert_close(actual, expected)
    for got, want in zip(
        torch.autograd.grad(actual, leaves, upstream), torch.autograd.grad(expected, leaves, upstream), strict=True
    ):
        torch.testing.assert_close(got, want)


def test_nothing_as_wide_as_the_activation_is_kept_beside_the_input():
    layer, x = GeluLinear(64, 8), torch.randn(100, 64, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(x)
    wide = {t.data_ptr() for t in kept if t.shape == x.shape}
    assert wide == {x.data_ptr()}


def test_low_precision_is_summed_in_one_piece(monkeypatch):
    monkeypatch.setattr(layers, "CHUNK_ELEMENTS", 64)
    layer, twin = GeluLinear(64, 8).bfloat16(), nn.Linear(64, 8).bfloat16()
    twin.load_state_dict(layer.state_dict())
    x = torch.randn(300, 64, dtype=torch.bfloat16)
    assert torch.equal(layer(x), twin(functional.gelu(x)))
    layer(x).sum().backward()
    twin(functional.gelu(x)).sum().backward()
    assert torch.equal(layer.weight.grad, twin.weight.grad)
