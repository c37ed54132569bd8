"""Layers that keep less for the backward pass: the same functions, with less kept."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from silc.model import layers
from silc.model.layers import GeluLinear, PackedLinear, RecipeLinear, RecipeNorm, layer_norm

APPROXIMATE = {"exact": "none", "tanh": "tanh"}


@pytest.mark.parametrize("gelu", APPROXIMATE)
@pytest.mark.parametrize("shape", [(1, 12), (7, 12), (8, 12), (3, 5, 12)])
@pytest.mark.parametrize("chunk", [1, 24, 1 << 21])
def test_value_and_gradients_are_those_of_the_two_in_a_row(monkeypatch, shape, chunk, gelu):
    monkeypatch.setattr(layers, "CHUNK_ELEMENTS", chunk)
    layer = GeluLinear(12, 5, gelu).double()
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    expected = functional.linear(functional.gelu(x, approximate=APPROXIMATE[gelu]), layer.weight, layer.bias)
    upstream = torch.randn_like(expected)
    leaves = [x, layer.weight, layer.bias]
    actual = layer(x)
    torch.testing.assert_close(actual, expected)
    for got, want in zip(
        torch.autograd.grad(actual, leaves, upstream), torch.autograd.grad(expected, leaves, upstream), strict=True
    ):
        torch.testing.assert_close(got, want)


def test_the_two_approximations_differ_as_their_formulas_do():
    x = torch.linspace(-6, 6, 1001, dtype=torch.float64)[:, None]
    exact = x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    tanh = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    for gelu, expected in (("exact", exact), ("tanh", tanh)):
        layer = GeluLinear(1, 1, gelu).double()
        nn.init.ones_(layer.weight)
        nn.init.zeros_(layer.bias)
        torch.testing.assert_close(layer(x), expected, atol=1e-12, rtol=0)
    assert (exact - tanh).abs().max() > 4e-4


@pytest.mark.parametrize("gelu", APPROXIMATE)
def test_gradients_are_those_of_finite_differences(gelu):
    layer = GeluLinear(6, 4, gelu).double()
    x = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, layer.weight, layer.bias))


def test_nothing_as_wide_as_the_activation_is_kept_beside_the_input():
    layer, x = GeluLinear(64, 8), torch.randn(100, 64, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(x)
    wide = {t.data_ptr() for t in kept if t.shape == x.shape}
    assert wide == {x.data_ptr()}


@pytest.mark.parametrize("gelu", APPROXIMATE)
def test_low_precision_is_summed_in_one_piece(monkeypatch, gelu):
    monkeypatch.setattr(layers, "CHUNK_ELEMENTS", 64)
    layer, twin = GeluLinear(64, 8, gelu).bfloat16(), nn.Linear(64, 8).bfloat16()
    twin.load_state_dict(layer.state_dict())
    x = torch.randn(300, 64, dtype=torch.bfloat16)
    activation = functional.gelu(x, approximate=APPROXIMATE[gelu])
    assert torch.equal(layer(x), twin(activation))
    layer(x).sum().backward()
    twin(activation).sum().backward()
    assert torch.equal(layer.weight.grad, twin.weight.grad)


def gradients(value, leaves):
    return [value.detach(), *torch.autograd.grad(value, leaves, torch.ones_like(value).cumsum(0))]


def test_a_linear_layer_that_recomputes_its_norm_gives_the_same_value_and_gradients():
    norm, linear, plain = RecipeNorm(12).double(), RecipeLinear(12, 5).double(), layer_norm(12).double()
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    plain.load_state_dict(norm.state_dict())
    x = torch.randn(7, 12, dtype=torch.float64, requires_grad=True)
    actual = gradients(linear(norm(x)), [x, norm.weight, norm.bias, linear.weight, linear.bias])
    expected = functional.linear(plain(x), linear.weight, linear.bias)
    for got, want in zip(
        actual, gradients(expected, [x, plain.weight, plain.bias, linear.weight, linear.bias]), strict=True
    ):
        torch.testing.assert_close(got, want)


def test_the_result_of_the_norm_is_not_kept():
    norm, linear, x = RecipeNorm(64), RecipeLinear(64, 8), torch.randn(100, 64, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        normed = norm(x)
        linear(normed)
    assert x.data_ptr() in kept
    assert normed.data_ptr() not in kept


@pytest.mark.parametrize("rows", [(3,), (3, 4), (1, 2, 5)])
def test_a_packed_linear_layer_is_the_linear_layer_of_the_packed_rows(rows):
    layer = PackedLinear(6, 5).double()
    parts = [torch.randn(count, 6, dtype=torch.float64, requires_grad=True) for count in rows]
    leaves = [*parts, layer.weight, layer.bias]
    expected = functional.linear(torch.cat(parts), layer.weight, layer.bias)
    for got, want in zip(gradients(layer(parts), leaves), gradients(expected, leaves), strict=True):
        torch.testing.assert_close(got, want)
