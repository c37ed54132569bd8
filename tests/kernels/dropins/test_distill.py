"""docs/ops/distill.md: its losses against lightly's, and against the formulas of Meta's DINO and dinov2."""

import pytest
import torch
from lightly.loss import DINOLoss
from lightly.models.modules import DINOProjectionHead
from torch.nn import functional

from tests.kernels.dropins.pages import run
from tests.kernels.oracles import normal

N, K = 6, 23
STEPS = 4


def views(count, step, seed, dtype=torch.float64):
    return [normal(N, K, seed=100 * step + 10 * seed + view, dtype=dtype) for view in range(count)]


@pytest.mark.parametrize("students", [2, 5])
@pytest.mark.parametrize("given", [{}, {"epoch": 1}, {"epoch": 7}, {"teacher_temp": 0.06}])
def test_lightlys_values_gradients_and_centers_over_several_steps(students, given):
    options = {"warmup_teacher_temp": 0.02, "teacher_temp": 0.05, "warmup_teacher_temp_epochs": 3, "student_temp": 0.2}
    losses = [loss(K, **options).double() for loss in (run("distill")["DINOLoss"], DINOLoss)]
    for step in range(STEPS):
        found = []
        for loss in losses:
            student = [view.requires_grad_() for view in views(students, step, 1)]
            value = loss(views(2, step, 2), student, **given)
            value.backward()
            found.append((value.detach(), torch.stack([view.grad for view in student]), loss.center.clone()))
        for mine, theirs in zip(*found, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9)  # lightly's temperature is float32
    assert losses[0].center.abs().max() > 0.05
    losses[0].load_state_dict(losses[1].state_dict(), strict=True)


def test_one_view_of_each_has_no_pair():
    with pytest.raises(ValueError, match="pair_weights"):
        run("distill")["DINOLoss"](K)(views(1, 0, 1), views(1, 0, 2))


def by_pairs(student, teacher, center, temps, same):
    """[sum over pairs of the mean cross-entropy, number of pairs]."""
    pairs = [(s, t) for s in range(len(student)) for t in range(len(teacher)) if same or s != t]
    targets = [functional.softmax((view - center) / temps[1], -1) for view in teacher]
    entropies = [-(targets[t] * functional.log_softmax(student[s] / temps[0], -1)).sum(-1).mean() for s, t in pairs]
    return sum(entropies), len(pairs)


def test_a_temperature_of_zero_is_no_absent_one():
    with pytest.raises(ValueError, match=r"teacher_temp is 0\.0"):
        run("distill")["DINOLoss"](K)(views(2, 0, 1), views(2, 0, 2), teacher_temp=0.0)


def test_heads_with_batch_norm_take_all_views_at_once():
    """As Meta's MultiCropWrapper, which concatenates the crops before the head."""
    torch.manual_seed(0)
    teacher, student = (DINOProjectionHead(12, 16, 8, K, batch_norm=True).double() for _ in range(2))
    loss = run("distill")["DINOHeadLoss"](K).double()
    teacher_in, student_in = normal(2, N, 12, seed=1), normal(4, N, 12, seed=2)
    value = loss(teacher, student, teacher_in, student_in)
    logits = [
        head(x.flatten(0, 1)).detach().unflatten(0, x.shape[:2])
        for head, x in ((teacher, teacher_in), (student, student_in))
    ]
    total, pairs = by_pairs(logits[1], logits[0], torch.zeros(K), (0.1, 0.04), same=False)
    torch.testing.assert_close(value.detach(), total / pairs, rtol=1e-6, atol=1e-9)


def test_metas_signature_value_gradient_and_center():
    loss = run("distill")["MetaDINOLoss"](K, 4, 0.04, 0.07, 3, 10).double()
    assert loss.center.shape == (1, K)
    center = torch.zeros(K, dtype=torch.float64)
    for epoch, temp in ((0, 0.04), (1, 0.055), (2, 0.07), (9, 0.07)):
        student, teacher = (torch.cat(views(count, epoch, count)).requires_grad_() for count in (4, 2))
        expected, pairs = by_pairs(student.chunk(4), teacher.detach().chunk(2), center, (0.1, temp), same=False)
        value = loss(student, teacher, epoch)
        torch.testing.assert_close(value, expected / pairs, rtol=1e-6, atol=1e-9)
        found = torch.autograd.grad(value, (student, teacher), allow_unused=True)
        assert found[1] is None
        torch.testing.assert_close(found[0], torch.autograd.grad(expected / pairs, student)[0], rtol=1e-5, atol=1e-9)
        center = 0.9 * center + 0.1 * teacher.detach().mean(0)
        torch.testing.assert_close(loss.center[0], center)


def test_dinov2s_sum_over_pairs():
    student, teacher, center = [x.requires_grad_() for x in views(3, 0, 1)], views(2, 0, 2), normal(1, K, seed=9)
    value = run("distill")["dinov2_loss"](student, teacher, center, 0.05)
    expected, _ = by_pairs(student, teacher, center, (0.1, 0.05), same=True)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(torch.autograd.grad(value, student), torch.autograd.grad(expected, student))


@pytest.mark.parametrize("norm_last_layer", [True, False])
def test_lightlys_heads_with_the_last_layer_inside(norm_last_layer):
    """Loss, gradients of all the student's parameters, and center, over steps that train both heads."""
    torch.manual_seed(0)
    width, bottleneck = 12, 8
    shape = (width, 16, bottleneck, K)
    made = [DINOProjectionHead(*shape, norm_last_layer=norm_last_layer).double() for _ in range(4)]
    for ours, theirs in (made[:2], made[2:]):  # teachers, students
        theirs.load_state_dict(ours.state_dict())
    losses = run("distill")["DINOHeadLoss"](K).double(), DINOLoss(K).double()
    for step in range(STEPS):
        teacher_in, student_in = normal(2, N, width, seed=step), normal(4, N, width, seed=50 + step)
        mine = losses[0](made[0], made[2], teacher_in, student_in)
        with torch.no_grad():
            targets = [made[1](view) for view in teacher_in]
        theirs = losses[1](targets, [made[3](view) for view in student_in])
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(losses[0].center, losses[1].center)
        for loss, teacher, student in ((mine, made[0], made[2]), (theirs, made[1], made[3])):
            student.zero_grad()
            loss.backward()
            trained = zip(teacher.parameters(), student.parameters(), strict=True)
            with torch.no_grad():
                for slow, fast in trained:
                    if fast.grad is not None:
                        fast -= 0.1 * fast.grad
                    slow.lerp_(fast, 0.1)
        for (name, ours), other in zip(made[2].named_parameters(), made[3].parameters(), strict=True):
            assert (ours.grad is None) == (other.grad is None), name
            if ours.grad is not None:
                torch.testing.assert_close(ours.grad, other.grad, rtol=1e-5, atol=1e-9)
