"""The operator of contrastive_loss is left out where nothing looks on, and then nothing else differs."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from silc_kernels import contrastive_loss
from tests.kernels.oracles import unit

KINDS = pytest.mark.parametrize("kind", ["softmax", "sigmoid"])


class Seen(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **kwargs or {})


def leaves(**where):
    features = unit(2, 9, 6, seed=1, dtype=torch.float32), unit(9, 6, seed=2, dtype=torch.float32)
    scalars = torch.tensor([9.0]), torch.tensor([-4.0])
    return [x.to(**where).requires_grad_() for x in (*features, *scalars)]


def solve(inputs, kind):
    loss = contrastive_loss(*inputs, kind=kind)
    gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
    return [loss.detach(), *(x for x in gradients if x is not None)]


@KINDS
def test_with_and_without_the_operator_all_is_bitwise_equal(kind):
    inputs = leaves()
    with torch.profiler.profile(acc_events=True) as profiled:
        alone = solve(inputs, kind)
    assert not any("contrastive_torch" in event.name for event in profiled.events())
    with Seen() as seen:
        watched = solve(inputs, kind)
    assert "contrastive_torch" in seen.names
    for mine, theirs in zip(alone, watched, strict=True):
        assert mine.shape == theirs.shape
        assert torch.equal(mine, theirs)


def test_tensors_without_memory_and_of_other_types_take_the_operator():
    class Other(torch.Tensor):
        pass

    assert contrastive_loss(*leaves(device="meta")).is_meta
    inputs = leaves()
    inputs[0] = inputs[0].detach().as_subclass(Other)
    with torch.profiler.profile(acc_events=True) as profiled:
        contrastive_loss(*inputs)
    assert any("contrastive_torch" in event.name for event in profiled.events())


@KINDS
def test_a_loss_that_is_changed_in_place_and_two_backwards(kind):
    inputs = leaves()
    _, *expected = solve(inputs, kind)
    loss = contrastive_loss(*inputs, kind=kind)
    loss.mul_(3)
    for _ in range(2):
        found = torch.autograd.grad(loss, inputs, allow_unused=True, retain_graph=True)
        for mine, theirs in zip((x for x in found if x is not None), expected, strict=True):
            torch.testing.assert_close(mine, 3 * theirs)


@KINDS
def test_an_upstream_gradient_is_asked_for_as_any_other(kind):
    inputs, weight = leaves(), torch.tensor(2.0, requires_grad=True)
    value = contrastive_loss(*inputs, kind=kind)
    (found,) = torch.autograd.grad(weight * value, weight)
    torch.testing.assert_close(found, value.detach())
