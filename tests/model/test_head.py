"""The prototype head against DINO's arithmetic, written out in double precision."""

import math

import torch
import torch.nn.functional as F
from torch.nn.utils.parametrizations import weight_norm

from silc.config import HeadConfig
from silc.model import DistillInputs, PrototypeHead, initialize

SIZES = HeadConfig(prototypes=50, hidden=24, bottleneck=8)


def make_head() -> PrototypeHead:
    head = PrototypeHead(16, SIZES)
    initialize(head, seed=0)
    return head


def test_logits_equal_a_weight_normalised_linear_layer():
    head = make_head()
    last = weight_norm(torch.nn.Linear(8, 50, bias=False))
    last.parametrizations.weight.original0.data.fill_(1)
    last.parametrizations.weight.original1.data.copy_(head.last_layer.weight)
    features = torch.randn(7, 16)
    hidden = F.gelu(F.linear(features, head.mlp[0].weight, head.mlp[0].bias))
    hidden = F.gelu(F.linear(hidden, head.mlp[2].weight, head.mlp[2].bias))
    z = F.linear(hidden, head.mlp[4].weight, head.mlp[4].bias)
    z = z / z.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(head.bottleneck(features), z)
    torch.testing.assert_close(head.bottleneck(features) @ head.weight().t(), last(z))


def test_the_number_of_layers_is_the_configurations():
    for layers in (1, 2, 4):
        head = PrototypeHead(16, HeadConfig(prototypes=5, hidden=24, bottleneck=8, layers=layers))
        linear = [module for module in head.mlp if isinstance(module, torch.nn.Linear)]
        assert len(linear) == layers
        assert head.bottleneck(torch.randn(2, 3, 16)).shape == (2, 3, 8)


def test_loss_is_the_papers():
    student, teacher = make_head().double(), make_head().double()
    initialize(teacher, seed=9)
    locals_, globals_ = torch.randn(3, 4, 16).double(), torch.randn(2, 4, 16).double()
    center = 0.1 * torch.randn(50).double()
    weights = torch.tensor([[1.0, 0.5], [0.0, 1.0], [2.0, 1.0]]).double()
    with torch.no_grad():
        inputs = DistillInputs(
            teacher=teacher.bottleneck(globals_),
            weight=teacher.weight(),
            center=center,
            student_temp=0.1,
            teacher_temp=0.04,
            pair_weights=weights,
        )
    loss = student(locals_, inputs.teacher, inputs)
    logits_s = student.bottleneck(locals_) @ student.weight().t()
    logits_t = inputs.teacher @ inputs.weight.t()
    log_p = F.log_softmax(logits_s / 0.1, dim=-1)
    p = F.softmax((logits_t - center) / 0.04, dim=-1)
    expected = sum(
        weights[s, t] * -(p[t, n] * log_p[s, n]).sum() for s in range(3) for t in range(2) for n in range(4)
    ) / (4 * weights.sum())
    assert math.isclose(loss.item(), expected.item(), rel_tol=1e-12)
    loss.backward()
    ours = [parameter.grad.clone() for parameter in student.parameters()]
    student.zero_grad()
    expected.backward()
    for got, parameter in zip(ours, student.parameters(), strict=True):
        torch.testing.assert_close(got, parameter.grad, atol=1e-10, rtol=1e-8)
