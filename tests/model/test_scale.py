"""Scale and bias of the logits: first values, the limit, and the gradient at the limit."""

import math

import pytest
import torch

from silc.model import LogitScale


def test_first_values():
    scale, bias = LogitScale("softmax").effective()
    assert scale.item() == pytest.approx(1 / 0.07)
    assert bias is None
    scale, bias = LogitScale("sigmoid").effective()
    assert (scale.item(), bias.item()) == (pytest.approx(10), -10)
    scale, bias = LogitScale("sigmoid", init_scale=3.0, init_bias=-2.0).effective()
    assert (scale.item(), bias.item()) == (pytest.approx(3), -2)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="triplet"):
        LogitScale("triplet")


def test_tensors_have_one_dimension_and_are_fp32():
    for parameter in LogitScale("sigmoid").parameters():
        assert parameter.shape == (1,)
        assert parameter.dtype == torch.float32


@pytest.mark.parametrize(("value", "effective"), [(50.0, 50.0), (100.0, 100.0), (400.0, 100.0)])
def test_the_effective_value_is_limited_and_its_gradient_passes(value, effective):
    module = LogitScale("softmax", init_scale=value)
    scale, _ = module.effective()
    assert scale.item() <= 100
    assert scale.item() == pytest.approx(effective)
    (gradient,) = torch.autograd.grad(scale, module.logit_scale)
    assert gradient.item() == pytest.approx(effective)


def test_a_scale_pushed_over_the_limit_comes_back_with_the_first_opposite_step():
    module = LogitScale("softmax", init_scale=99.0)
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
    for sign in [-1.0] * 20 + [1.0]:  # the first twenty steps pull upwards
        optimizer.zero_grad()
        (sign * module.effective()[0].sum()).backward()
        optimizer.step()
        module.limit_()
        assert module.logit_scale.item() <= math.log(100) + 1e-6
    assert module.effective()[0].item() < 99
