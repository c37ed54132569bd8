"""distill_loss and distill_head_loss against the published formulas, and what they promise about memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.loss import DINOLoss
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import silc_kernels
from silc_kernels import distill_head_loss, distill_loss
from silc_kernels.distill import torch_head, torch_logits
from tests.kernels.oracles import Allocations, distillation, normal, relative, unit

TEMPS = {"student_temp": 0.1, "teacher_temp": 0.04}


def problem(S=3, N=5, T=2, K=37, d=8, dtype=torch.float64):
    """student, teacher, student_weight, teacher_weight, center; all that can be trained asks for a gradient."""
    student, weight = unit(S, N, d, seed=1, dtype=dtype), unit(K, d, seed=2, dtype=dtype)
    teacher, teacher_weight = unit(T, N, d, seed=3, dtype=dtype), unit(K, d, seed=4, dtype=dtype)
    center = 0.05 * normal(K, seed=5, dtype=dtype)
    return student.requires_grad_(), teacher, weight.requires_grad_(), teacher_weight, center


def oracle(student, teacher, weight, teacher_weight, center, pair_weights=None, temps=(0.1, 0.04)):
    """Value and gradients (features, weight) in float64 from the whole logits."""
    student, weight = (x.detach().double().requires_grad_() for x in (student, weight))
    targets = teacher.double() @ teacher_weight.double().T
    loss = distillation(student @ weight.T, targets, center.double(), *temps, pair_weights)
    return loss, *torch.autograd.grad(loss, (student, weight))


def head(student, teacher, weight, teacher_weight, center, pair_weights=None, **temps):
    return distill_head_loss(
        student, teacher, weight, teacher_weight, center, pair_weights=pair_weights, **(temps or TEMPS)
    )


def from_logits(student, teacher, weight, teacher_weight, center, pair_weights=None, **temps):
    logits = student @ weight.T
    return distill_loss(logits, teacher @ teacher_weight.T, center, pair_weights=pair_weights, **(temps or TEMPS))


def inplace(student, teacher, weight, teacher_weight, center, pair_weights=None, **temps):
    return distill_loss(
        student @ weight.T,
        teacher @ teacher_weight.T,
        center,
        pair_weights=pair_weights,
        inplace_backward=True,
        **(temps or TEMPS),
    )


FORMS = pytest.mark.parametrize("form", [head, from_logits, inplace])


def solve(form, inputs, pair_weights=None, **temps):
    loss = form(*inputs, pair_weights, **temps)
    return loss, *torch.autograd.grad(loss, (inputs[0], inputs[2]))


@FORMS
@settings(max_examples=15, deadline=None)
@given(
    S=st.integers(1, 5),
    T=st.integers(1, 3),
    N=st.integers(1, 6),
    K=st.integers(1, 70),
    weighted=st.sampled_from(["none", "shared", "general"]),
    chunk=st.sampled_from([1, 100, 1 << 22]),
)
def test_equals_the_formula_whatever_the_shape_and_the_chunk(form, S, T, N, K, weighted, chunk):
    inputs = problem(S, N, T, K)
    weights = None
    if weighted != "none":
        rows = 1 if weighted == "shared" else S
        weights = (normal(rows, T, seed=6).abs() + 0.1).expand(S, T)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_head, "CHUNK_ELEMENTS", chunk)
        patch.setattr(torch_logits, "CHUNK_ELEMENTS", chunk)
        actual = solve(form, inputs, weights)
    for mine, theirs in zip(actual, oracle(*inputs, weights), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-13)


@FORMS
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 3e-6), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
def test_low_precision_inputs_are_computed_in_float32(form, dtype, bound):
    inputs = problem(4, 6, 2, 301, 16, dtype)
    loss, *gradients = solve(form, inputs)
    expected, *expected_gradients = oracle(*inputs)
    assert loss.dtype == torch.float32
    # From logits, the logits themselves are rounded to the low precision before the op sees them.
    assert relative(loss, expected) < (1e-6 if form is head else bound)
    for mine, theirs in zip(gradients, expected_gradients, strict=True):
        assert mine.dtype == dtype
        assert relative(mine, theirs) < bound * (1 if form is head else 5)


@FORMS
def test_equals_lightly(form):
    inputs = problem(5, 7, 2, 64, 16, torch.float32)
    student, teacher, weight, teacher_weight, center = inputs
    loss = DINOLoss(output_dim=64, teacher_temp=0.04, student_temp=0.1)
    loss.center.copy_(center)
    expected = loss(list(teacher @ teacher_weight.T), list(student @ weight.T))
    expected_gradients = torch.autograd.grad(expected, (student, weight))
    # lightly leaves out the pairs of equal index: there they are the same crop.
    pairs = torch.ones(5, 2).fill_diagonal_(0)
    actual, *gradients = solve(form, inputs, pairs)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=0)
    for mine, theirs in zip(gradients, expected_gradients, strict=True):
        assert relative(mine, theirs) < 1e-5


def test_equals_dino_as_published():
    student, teacher, weight, teacher_weight, center = problem(6, 4, 2, 50)
    logits, targets = student @ weight.T, teacher @ teacher_weight.T
    total, terms = 0, 0
    for t, q in enumerate(functional.softmax((targets - center) / 0.04, dim=-1)):
        for s, own in enumerate(logits / 0.1):
            if s != t:
                total = total + torch.sum(-q * functional.log_softmax(own, dim=-1), dim=-1).mean()
                terms += 1
    pairs = torch.ones(6, 2).fill_diagonal_(0)
    actual = distill_loss(logits, targets, center, pair_weights=pairs, **TEMPS)
    torch.testing.assert_close(actual, total / terms, rtol=1e-12, atol=0)


@FORMS
@pytest.mark.parametrize("size", [1e-6, 50.0])
def test_extreme_logits_stay_exact(form, size):
    """Flat students, and one-hot ones with logits in the thousands."""
    student, teacher, weight, teacher_weight, center = problem(2, 3, 2, 400, 16, torch.float32)
    inputs = (student.detach().mul(size).requires_grad_(), teacher * size, weight, teacher_weight, center)
    actual = solve(form, inputs, student_temp=0.01, teacher_temp=0.01)
    for mine, theirs in zip(actual, oracle(*inputs, temps=(0.01, 0.01)), strict=True):
        # One unit in the last place of a logit of 5000 is 5e-4: of the targets too.
        assert relative(mine, theirs) < (2e-6 if size < 1 else 5e-3)


@FORMS
def test_two_runs_are_bitwise_equal(form):
    inputs = problem(4, 9, 2, 513, 16, torch.float32)
    for first, second in zip(solve(form, inputs), solve(form, inputs), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("form", [head, from_logits])
@pytest.mark.parametrize("pairs", [None, torch.tensor([[1.0, 2.0], [0.0, 1.0]])])
def test_gradcheck(form, pairs):
    student, teacher, weight, teacher_weight, center = problem(2, 3, 2, 11, 4)
    call = lambda x, w: form(x, teacher, w, teacher_weight, center, pairs, student_temp=0.5, teacher_temp=0.3)  # noqa: E731
    assert torch.autograd.gradcheck(call, (student, weight))


def test_the_teacher_and_the_center_get_no_gradient():
    inputs = [x.detach().requires_grad_() for x in problem()]
    head(*inputs).backward()
    assert [x.grad is not None for x in inputs] == [True, False, True, False, False]


def test_only_what_asks_gets_a_gradient():
    student, teacher, weight, teacher_weight, center = problem()
    expected = oracle(student, teacher, weight, teacher_weight, center)
    (d_student,) = torch.autograd.grad(head(student, teacher, weight.detach(), teacher_weight, center), (student,))
    (d_weight,) = torch.autograd.grad(head(student.detach(), teacher, weight, teacher_weight, center), (weight,))
    torch.testing.assert_close((d_student, d_weight), expected[1:])
    with torch.no_grad():
        without = head(student, teacher, weight, teacher_weight, center)
    assert not without.requires_grad
    torch.testing.assert_close(without, expected[0].detach())


def test_backward_scales_by_the_incoming_gradient_and_can_be_repeated():
    inputs = problem()
    loss = head(*inputs)
    (once,) = torch.autograd.grad(loss, (inputs[2],), retain_graph=True)
    (thrice,) = torch.autograd.grad(3 * loss, (inputs[2],))
    torch.testing.assert_close(thrice, 3 * once)


@FORMS
def test_autocast_changes_neither_the_loss_nor_the_gradients(form):
    inputs = problem(dtype=torch.float32)
    student, teacher, weight, teacher_weight, center = inputs
    pairs = torch.tensor([[1.0, 2.0], [0.0, 1.0], [0.5, 0.0]])
    logits, targets = (student @ weight.T).detach().requires_grad_(), teacher @ teacher_weight.T

    def run():
        if form is head:
            return solve(head, inputs, pairs)
        own = logits * 1
        loss = distill_loss(own, targets, center, pair_weights=pairs, inplace_backward=form is inplace, **TEMPS)
        return loss, *torch.autograd.grad(loss, logits)

    expected = run()
    with torch.autocast("cpu", torch.bfloat16):
        actual = run()
    assert all(torch.equal(mine, plain) for mine, plain in zip(actual, expected, strict=True))


def test_compiles_with_a_temperature_that_changes():
    _, teacher, weight, teacher_weight, center = problem(dtype=torch.float32)
    logits, targets = teacher @ weight.detach().T, teacher @ teacher_weight.T
    call = lambda temp: distill_loss(logits, targets, center, student_temp=0.1, teacher_temp=temp)  # noqa: E731
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    for temp in (0.04, 0.05, 0.06):
        torch.testing.assert_close(compiled(temp), call(temp))


@pytest.mark.parametrize("dynamic", [None, True])
def test_compiles_in_place_for_other_batches_too(dynamic):
    def call(logits, targets):
        return distill_loss(logits * 1, targets, targets.new_zeros(11), inplace_backward=True, **TEMPS)

    compiled = torch.compile(call, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for samples in (3, 5, 6):
        logits, targets = normal(2, samples, 11, seed=1).requires_grad_(), normal(2, samples, 11, seed=2)
        actual, expected = compiled(logits, targets), call(logits, targets)
        torch.testing.assert_close(actual, expected)
        torch.testing.assert_close(torch.autograd.grad(actual, logits), torch.autograd.grad(expected, logits))


def test_compiles_in_place_where_logits_share_memory():
    def call(logits, targets, inplace):
        wide = logits.expand(3, 4, 11)
        return distill_loss(wide, targets, targets.new_zeros(11), inplace_backward=inplace, **TEMPS)

    logits, targets = normal(1, 4, 11, seed=1).requires_grad_(), normal(2, 4, 11, seed=2)
    expected = torch.autograd.grad(call(logits, targets, False), logits)
    actual = torch.compile(call, fullgraph=True, backend="aot_eager")(logits, targets, True)
    torch.testing.assert_close(torch.autograd.grad(actual, logits), expected)


@FORMS
@pytest.mark.parametrize("which", [0, 2])
def test_a_second_derivative_is_refused(form, which):
    inputs = problem()
    loss = form(*inputs)
    (gradient,) = torch.autograd.grad(loss, inputs[which], create_graph=True)
    torch.testing.assert_close(gradient, oracle(*inputs)[1 + which // 2])
    with pytest.raises(RuntimeError, match=r"distill\w*_loss is differentiable once"):
        gradient.pow(2).sum().backward()


@FORMS
def test_checkpointing_gives_the_same_gradients(form):
    inputs = problem()
    expected = solve(form, inputs)[1:]
    for reentrant in (False, True):
        loss = checkpoint(lambda *inputs: form(*inputs) * 1, *inputs, use_reentrant=reentrant)
        loss.backward()
        torch.testing.assert_close((inputs[0].grad, inputs[2].grad), expected)
        inputs[0].grad = inputs[2].grad = None


@FORMS
@pytest.mark.parametrize(
    ("dtype", "size"),
    [(torch.float32, 1e38), (torch.float32, 1e-42), (torch.float64, 1e-300), (torch.float64, 1e300), (torch.int64, 3)],
)
def test_pair_weights_of_any_size(form, dtype, size):
    pairs = torch.tensor([[1, 1], [0, 1], [1, 1]])
    inputs = problem(dtype=torch.float32)
    expected = solve(form, inputs, pairs)
    for mine, theirs in zip(solve(form, inputs, pairs.to(dtype) * size), expected, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_head_keeps_and_allocates_nothing_of_rows_by_prototypes(monkeypatch):
    S, N, T, K, d = 4, 32, 2, 512, 16
    inputs = problem(S, N, T, K, d, torch.float32)
    monkeypatch.setattr(torch_head, "CHUNK_ELEMENTS", 4 * (S + T) * K)
    kept = []

    def pack(tensor):
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), Allocations() as allocated:
        loss = head(*inputs)
    with allocated:
        loss.backward()
    assert max(kept) == K * d
    assert allocated.largest == 4 * (S + T) * K


FULL_SIZE = """
import pathlib, torch
from silc_kernels import distill_head_loss

def features(*shape):
    return torch.empty(shape).uniform_(-0.1, 0.1)

def high_water_mb():
    # Not ru_maxrss: that of the process which started this one counts for it too.
    line = next(line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    return int(line.split()[1]) * 1024 / 1e6

def peak_mb(S, N, T, K, d):
    student, weight = features(S, N, d).requires_grad_(), features(K, d).requires_grad_()
    teacher, teacher_weight, center = features(T, N, d), features(K, d), torch.zeros(K)
    before = high_water_mb()
    loss = distill_head_loss(student, teacher, weight, teacher_weight, center, student_temp=0.1, teacher_temp=0.04)
    loss.backward()
    return high_water_mb() - before

peak_mb(2, 2, 2, 64, 16)
print(peak_mb(10, 64, 2, 65536, 256))
"""


def test_peak_memory_at_full_size():
    """The promise: under 400 MB above the inputs, both gradients included; the logits alone would be 200."""
    environment = os.environ | {"PYTHONPATH": str(Path(silc_kernels.__file__).parents[1])}
    command = [sys.executable, "-c", FULL_SIZE]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert 67 < float(result.stdout) < 400  # the prototypes' gradient is 67


def test_inplace_backward_reuses_the_logits_and_refuses_a_second_use():
    student, teacher, weight, teacher_weight, center = problem()
    logits = student @ weight.T
    passed = []
    logits.register_hook(lambda gradient: passed.append(gradient.data_ptr()))
    loss = distill_loss(logits, teacher @ teacher_weight.T, center, inplace_backward=True, **TEMPS)
    loss.backward(retain_graph=True)
    assert passed == [logits.data_ptr()]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_non_contiguous_inputs():
    inputs = problem(3, 5, 2, 37, 8)
    strided = [x.detach().transpose(0, -1).contiguous().transpose(0, -1) for x in inputs[:4]]
    assert not strided[0].is_contiguous()
    strided[0].requires_grad_(), strided[2].requires_grad_()
    for form in (head, from_logits):
        for mine, theirs in zip(solve(form, (*strided, inputs[4])), oracle(*inputs), strict=True):
            torch.testing.assert_close(mine, theirs)


MISUSE = [
    ({"student": torch.zeros(3, 8)}, r"student has shape \[3, 8\]"),
    ({"teacher": torch.zeros(2, 4, 8)}, r"teacher has shape \[2, 4, 8\].*\[T, N, d\]"),
    ({"student_weight": torch.zeros(37, 9)}, "student_weight"),
    ({"teacher_weight": torch.zeros(36, 8)}, "teacher_weight"),
    ({"center": torch.zeros(36)}, r"center has shape \[36\]"),
    ({"student": torch.zeros(3, 5, 8, dtype=torch.int64)}, "dtype torch.int64"),
    ({"center": torch.zeros(37, device="meta")}, "move them to one device"),
    ({"student_temp": 0.0}, "student_temp is 0.0"),
    ({"teacher_temp": float("nan")}, "teacher_temp is nan"),
    ({"teacher_temp": float("inf")}, "teacher_temp is inf"),
    ({"student_temp": None}, "student_temp is None; a temperature must be a number"),
    ({"student_temp": "x"}, "student_temp is 'x'"),
    ({"teacher": None}, "teacher is None; give a tensor"),
    ({"pair_weights": [[1, 1]] * 3}, r"pair_weights is \[\[1, 1\].*torch\.tensor"),
    ({"pair_weights": torch.ones(3, 2) * 1j}, "give a real tensor"),
    ({"pair_weights": torch.zeros(3, 2)}, "not all zero"),
    ({"pair_weights": -torch.ones(3, 2)}, "not negative"),
    ({"pair_weights": torch.ones(2, 3)}, r"\[S, T\] = \[3, 2\]"),
    ({"student": torch.zeros(3, 0, 8), "teacher": torch.zeros(2, 0, 8)}, r"student has shape \[3, 0, 8\]"),
]


@pytest.mark.parametrize(("change", "message"), MISUSE)
def test_misuse_is_named(change, message):
    names = ("student", "teacher", "student_weight", "teacher_weight", "center")
    arguments = dict(zip(names, problem(dtype=torch.float32), strict=True)) | TEMPS | change
    with pytest.raises(ValueError, match=message):
        distill_head_loss(**arguments)


def test_misuse_of_the_logits_form_is_named():
    logits = torch.zeros(2, 3, 5, requires_grad=True)
    with pytest.raises(ValueError, match="overwrite student_logits"):
        distill_loss(logits, torch.zeros(1, 3, 5), torch.zeros(5), inplace_backward=True, **TEMPS)
    windows = torch.zeros(9).unfold(0, 5, 2).expand(2, 3, 5)
    for shared in (logits[:1].expand(2, 3, 5), torch.zeros(9).unfold(0, 5, 2)[None], windows):
        others = torch.zeros(1, 3, 5), torch.zeros(5)
        with pytest.raises(ValueError, match=r"elements of student_logits share memory.*contiguous\(\)"):
            distill_loss(shared, *others, inplace_backward=True, **TEMPS)
        assert distill_loss(shared, *others, **TEMPS).isfinite()
    for apart in (
        torch.zeros(5, 3, 2).permute(2, 1, 0),
        torch.zeros(2, 3, 11)[..., ::2][..., :5],
        torch.zeros(2, 1, 5),
    ):
        teacher = torch.zeros(1, apart.shape[1], 5)
        assert distill_loss(apart, teacher, torch.zeros(5), inplace_backward=True, **TEMPS).isfinite()
    with pytest.raises(ValueError, match=r"teacher_logits has shape \[1, 3, 4\]"):
        distill_loss(logits, torch.zeros(1, 3, 4), torch.zeros(5), **TEMPS)
