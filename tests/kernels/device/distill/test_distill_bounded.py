"""distill_head_loss without a running maximum: where logits are bounded, and no further; as accurate as with one."""

import math
import random

import pytest
import torch

from silc_kernels.distill import triton_bounded_kernels as bounded_kernels
from silc_kernels.distill import triton_head as distill_head
from silc_kernels.distill import triton_head_launch as tiles
from silc_kernels.distill.triton_head_plan import attention_plan
from tests.kernels.device.distill.test_distill_head import DTYPE, ROUNDING, TEMPS, compare, problem, triton

LIMIT = math.log2(math.e) / bounded_kernels.RANGE.value  # temperature from which rows of length 1 are bounded


def without(monkeypatch, *, bounded):
    """One form of attention is not launched: what only it would have written stays as it was."""

    def some(*args):
        plan = attention_plan(*args)
        return plan._replace(forms=tuple(form for form in plan.forms if form.bounded != bounded))

    monkeypatch.setattr(distill_head, "attention_plan", some)


def features(device, S=1, N=4, T=1, K=40, d=16, size=1.0, prototype=1.0):
    student, teacher, weight, teacher_weight, center = problem(device, S, N, T, K, d, size=size)
    with torch.no_grad():
        weight *= prototype
    return student, teacher, weight, teacher_weight, center * 0


@pytest.mark.parametrize(
    ("temp", "size", "prototype", "bounded"),
    [
        (LIMIT * 1.03, 1, 1, True),
        (LIMIT / 1.03, 1, 1, False),
        (0.1, 1, 1, True),
        (0.01, 1, 1, False),
        (0.1, 1000, 1, False),
        (10, 100, 1, True),
        (0.1, 0, 1, True),
        (1, 1, 2.0**50, False),
        (1, 1, 2.0**-120, False),  # products of the prototypes with small probabilities would vanish
        (1, 1, 2.0**-20, True),
    ],
)
def test_the_form_is_chosen_by_the_lengths(device, temp, size, prototype, bounded, monkeypatch):
    inputs = features(device, size=size, prototype=prototype)
    temps = {"student_temp": temp, "teacher_temp": max(temp, 0.1)}
    without(monkeypatch, bounded=not bounded)
    *_, norms = distill_head._run(
        *(each.detach() for each in inputs), torch.full((1, 1), 1 / 4, device=device), *temps.values()
    )
    assert norms[0, :4].isfinite().all()
    without(monkeypatch, bounded=bounded)
    *_, others = distill_head._run(
        *(each.detach() for each in inputs), torch.full((1, 1), 1 / 4, device=device), *temps.values()
    )
    assert not torch.equal(others[:, :4], norms[:, :4])


@pytest.mark.parametrize("temp", [LIMIT * 1.01, 0.04, 0.01])
def test_rows_that_are_prototypes(device, temp):
    """The bound is reached: one-hot rows, logits of 1 over the temperature."""
    student, teacher, weight, teacher_weight, center = problem(device, 2, 4, 2, 70, 16)
    with torch.no_grad():
        student[0] = weight[:4]
        student[1] = -weight[60:64]
        teacher[0] = teacher_weight[2:6]
    compare((student, teacher, weight, teacher_weight, center), student_temp=temp, teacher_temp=temp)


@pytest.mark.parametrize("shift", [1.0, 50.0])
def test_a_center_far_from_zero(device, shift):
    *inputs, center = problem(device, 2, 3, 2, 100, 16)
    compare((*inputs, center + shift * (torch.arange(100, device=device) % 2)))


def test_rows_of_both_forms_in_one_call(device):
    student, teacher, weight, teacher_weight, center = problem(device, 2, 132, 1, 40, 16)
    with torch.no_grad():
        student[0, 5] *= 300
        student[1, 7] = 0
        student[1, 130] = weight[3]
        teacher[0, 131] *= 100
    compare((student, teacher, weight, teacher_weight, center))


def test_bounded_rows_do_not_depend_on_what_lies_in_other_blocks(device):
    inputs = problem(device, 1, 260, 1, 40, 16)
    expected = torch.autograd.grad(triton(*inputs, **TEMPS), inputs[0])[0]
    with torch.no_grad():
        inputs[0][0, 200] *= 300
    actual = torch.autograd.grad(triton(*inputs, **TEMPS), inputs[0])[0]
    assert torch.equal(actual[0, :128], expected[0, :128])


@pytest.mark.parametrize("K", [1, 63])
@pytest.mark.parametrize("size", [0.0, 1.0])
def test_rows_of_zeros_and_single_prototypes(device, K, size):
    student, teacher, weight, teacher_weight, center = problem(device, 1, 3, 1, K, 16)
    with torch.no_grad():
        student[0, 1] *= size
        teacher[0, 2] *= size
    loss = triton(student, teacher, weight, teacher_weight, center, **TEMPS)
    if K == 1:
        assert abs(float(loss.detach())) < ROUNDING
    else:
        compare((student, teacher, weight, teacher_weight, center))


@pytest.mark.parametrize("which", range(5))
def test_what_is_no_number_shows_in_the_loss(device, which):
    for value in (torch.nan, torch.inf)[
        : 1 if which == 4 else 2
    ]:  # a prototype whose center is infinite is never chosen
        inputs = problem(device, 1, 3, 1, 40, 16)
        with torch.no_grad():
            inputs[which].flatten()[7] = value
        assert not triton(*inputs, **TEMPS).isfinite()


@pytest.mark.parametrize("seed", range(6))
def test_as_accurate_as_plain_torch_whatever_the_shape(device, seed):
    draw = random.Random(seed)
    S, T, N, K, d = (draw.randint(*ends) for ends in ((1, 3), (1, 2), (1, 40), (2, 150), (1, 40)))
    compare(problem(device, S, N, T, K, d), student_temp=draw.choice((0.02, 0.1)), teacher_temp=0.04)


def test_the_online_form_alone_agrees(device, monkeypatch):
    inputs = problem(device, 2, 9, 2, 150, 32)
    leaves = inputs[0], inputs[2]
    first = torch.autograd.grad(triton(*inputs, **TEMPS), leaves)
    for who in ("teacher", "student"):
        for architecture in (80, 90, 100):
            monkeypatch.setitem(tiles.SHIPPED, (f"bounded {who}", architecture), None)
    second = torch.autograd.grad(triton(*inputs, **TEMPS), leaves)
    bound = 1e-5 if torch.float32 == DTYPE else 4 * torch.finfo(DTYPE).eps
    for one, other in zip(first, second, strict=True):
        assert (one - other).norm() <= bound * other.norm()
