"""distill_loss on Triton: as accurate as plain torch, on logits of every shape, and its promises beside the value."""

import pytest
import torch

from silc_kernels import distill_loss
from silc_kernels.distill import torch_logits as reference
from silc_kernels.distill import triton_logits as distill
from silc_kernels.distill import triton_logits_launch as distill_tiles
from tests.kernels.oracles import distillation, normal
from tests.kernels.tolerance import assert_as_good_as

TEMPS = {"student_temp": 0.1, "teacher_temp": 0.04}
# S, N, T, K: odd, one of each, several groups of students, several splits, whole tiles and ragged ones
SHAPES = [(1, 3, 1, 7), (2, 5, 2, 513), (10, 3, 2, 2100), (17, 2, 2, 1030), (2, 1, 3, 9000), (2, 2, 8, 1024)]
if torch.cuda.is_available():
    SHAPES += [(10, 64, 2, 65536), (8, 33, 2, 65537), (10, 1024, 2, 4096)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def problem(device, S=3, N=4, T=2, K=700, dtype=torch.float32, size=1.0):
    """student logits, which ask for a gradient, teacher logits, centre."""
    student = (size * normal(S, N, K, seed=1)).to(device, dtype)
    teacher = (size * normal(T, N, K, seed=2)).to(device, dtype)
    return student.requires_grad_(), teacher, 0.1 * normal(K, seed=3, dtype=torch.float32).to(device)


def solve(loss, inputs, **options):
    value = loss(*inputs, **(TEMPS | options))
    return value, *torch.autograd.grad(value, inputs[:1])


def triton(*inputs, **options):
    return distill_loss(*inputs, backend="triton", **options)


def exact(student, teacher, center, student_temp, teacher_temp, pair_weights=None):
    return distillation(student, teacher, center, student_temp, teacher_temp, pair_weights)


def own_term(student, student_temp, pair_weights=None, **_):
    """The gradient of the students' log-sum-exps alone: where students and teachers agree, the whole one is the small
    difference of that and the teachers' pull."""
    mass = torch.ones(len(student)) if pair_weights is None else pair_weights.sum(1)
    share = mass.double() / (student_temp * student.shape[1] * float(mass.sum()))
    return share[:, None, None] * (student.detach() / student_temp).softmax(-1)


def compare(inputs, **options):
    wide = [tensor.detach().cpu().double() for tensor in inputs]
    wide[0].requires_grad_()
    results = solve(triton, inputs, **options), solve(reference.distill_loss, inputs, **options)
    true = solve(exact, wide, **options)
    terms = true[0], own_term(wide[0], **(TEMPS | options))
    for what, mine, plain, sure, term in zip(("loss", "gradient"), *results, true, terms, strict=True):
        assert mine.dtype == plain.dtype
        assert_as_good_as(mine, plain, sure, what, terms=term)


@pytest.mark.parametrize("shape", SHAPES)
def test_as_accurate_as_plain_torch(device, shape):
    compare(problem(device, *shape))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weighted", [False, True])
def test_every_dtype_and_pairs_of_their_own_weight(device, dtype, weighted):
    # The second student counts nothing: weights of 0 are allowed.
    weights = torch.tensor([[1.0, 2.0], [0.0, 0.0], [0.5, 0.0]]) if weighted else None
    compare(problem(device, 3, 2, 2, 1100, dtype), pair_weights=weights)


@pytest.mark.parametrize("size", [1e-6, 1.0, 100.0])
@pytest.mark.parametrize("temp", [0.01, 1.0])
def test_extreme_logits(device, size, temp):
    """From flat rows to one-hot ones, whose logits over the temperature are ten thousand apart."""
    compare(problem(device, 2, 2, 2, 600, size=size), student_temp=temp, teacher_temp=temp)


def test_constant_and_one_hot_rows(device):
    student, teacher, center = problem(device, 2, 2, 2, 600)
    with torch.no_grad():
        student[0], teacher[0] = 3.0, -7.0
        student[1], teacher[1] = 0.0, 0.0
        student[1, :, 5], teacher[1, :, 599] = 50.0, 50.0
    compare((student, teacher, center), student_temp=0.1, teacher_temp=0.04)


def test_mixed_dtypes_and_any_strides(device):
    student, teacher, center = problem(device, 3, 2, 2, 530)
    strided = student.detach().permute(2, 0, 1).contiguous().permute(1, 2, 0).requires_grad_()
    assert not strided.is_contiguous()
    compare((strided, teacher.bfloat16(), center.double().to(torch.bfloat16)))


def test_teachers_further_apart_than_32_bits_count(device):
    student, teacher, center = problem(device, 2, 1, 3, 64, torch.float16)
    # Only the pages that are written take memory on a CPU.
    apart = torch.empty_strided(teacher.shape, (1 << 30, 64, 1), dtype=torch.float16, device=device).copy_(teacher)
    expected = solve(triton, (student, teacher, center))
    for mine, theirs in zip(solve(triton, (student, apart, center)), expected, strict=True):
        assert torch.equal(mine, theirs)


def test_equals_lightly(device, needs):
    DINOLoss = needs("lightly.loss").DINOLoss
    student, teacher, center = problem(device, 5, 3, 2, 256)
    peer = DINOLoss(output_dim=256, teacher_temp=0.04, student_temp=0.1, center_momentum=1.0).to(device)
    peer.center.copy_(center)
    # lightly leaves out the pairs of equal index.
    pairs = torch.ones(5, 2).fill_diagonal_(0)
    value = peer(list(teacher), list(student))
    for mine, theirs in zip(
        solve(triton, (student, teacher, center), pair_weights=pairs),
        (value, *torch.autograd.grad(value, (student,))),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("inplace", [False, True])
def test_two_runs_are_bitwise_equal(device, inplace):
    runs = []
    for _ in range(2):
        student, *others = problem(device, 4, 2, 2, 2500, torch.bfloat16)
        runs.append(solve(triton, (student * 1, *others), inplace_backward=inplace))
    for first, second in zip(*runs, strict=True):
        assert torch.equal(first, second)


def test_the_gradient_in_place(device):
    student, teacher, center = problem(device)
    expected = solve(triton, (student, teacher, center))[1]
    logits, passed = student * 1, []
    logits.register_hook(lambda gradient: passed.append(gradient))
    loss = triton(logits, teacher, center, inplace_backward=True, **TEMPS)
    (3 * loss).backward(retain_graph=True)
    assert passed[0].data_ptr() == logits.data_ptr()
    torch.testing.assert_close(student.grad, 3 * expected)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("which", [0, 1])
def test_a_logit_that_is_not_a_number_shows_in_the_loss(device, which):
    inputs = problem(device, 2, 2, 2, 600)
    with torch.no_grad():
        inputs[which][1, 1, 37] = torch.nan
    assert triton(*inputs, **TEMPS).isnan()


def test_only_inputs_and_rows_are_kept(device):
    S, N, T, K = 3, 4, 2, 700
    inputs, kept = problem(device, S, N, T, K), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(x), x)[1], lambda x: x):
        loss = triton(*inputs, **TEMPS)
    assert loss.requires_grad
    own = {tensor.data_ptr() for tensor in inputs}
    assert max(tensor.numel() for tensor in kept if tensor.data_ptr() not in own) == 2 * (S + T) * N
    assert not triton(inputs[0].detach(), *inputs[1:], **TEMPS).requires_grad


TRIALS = [(key, trial) for key, trials in distill_tiles.TRIALS.items() if key[1] == 90 for trial in trials]


@pytest.mark.parametrize(("key", "trial"), TRIALS, ids=str)
def test_tiles_worth_timing_are_as_accurate(device, key, trial, monkeypatch):
    monkeypatch.setitem(distill_tiles.SHIPPED, key, trial)
    compare(problem(device, 3, 2, 2, 3000))


@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize("which", range(3))
def test_an_input_changed_before_the_backward_is_refused(device, which, backend):
    inputs = problem(device, 2, 2, 2, 40)
    loss = distill_loss(*inputs, backend=backend, **TEMPS)
    with torch.no_grad():
        inputs[which].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_inference_tensors(device, backend):
    student, teacher, center = problem(device, 2, 2, 2, 40)
    options = TEMPS | {"backend": backend}
    expected = distill_loss(student, teacher, center, **options)
    with torch.inference_mode():
        made = [tensor.clone() for tensor in (student, teacher, center)]
        assert torch.equal(distill_loss(*made, **options), expected)
    assert torch.equal(distill_loss(*made, **options), expected)
    with pytest.raises(ValueError, match=r"teacher_logits was made under torch\.inference_mode"):
        distill_loss(student, made[1], center, **options)
    with pytest.raises(ValueError, match=r"center was made under torch\.inference_mode"):
        distill_loss(student, teacher, made[2], **options)


@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize("inplace", [False, True])
def test_a_second_derivative_is_refused(device, backend, inplace):
    student, *others = problem(device, 2, 2, 2, 40)
    loss = distill_loss(student * 1, *others, backend=backend, inplace_backward=inplace, **TEMPS)
    (gradient,) = torch.autograd.grad(loss, student, create_graph=True)
    torch.testing.assert_close(gradient, solve(triton, (student, *others))[1])
    with pytest.raises(RuntimeError, match="distill_loss is differentiable once"):
        gradient.pow(2).sum().backward()


def test_the_operators_pass_opcheck(device):
    student, teacher, center = problem(device, 2, 2, 2, 40)
    pairs = torch.full((2, 2), 1 / 8, device=device)
    torch.library.opcheck(distill._forward, (student, teacher, center, pairs, 0.1, 0.04, False))
    _, norms = distill._forward(student.detach(), teacher, center, pairs, 0.1, 0.04, False)
    known = (
        torch.ones((), device=device),
        student.detach(),
        teacher,
        center,
        pairs,
        norms,
        0.1,
        0.04,
    )
    torch.library.opcheck(distill._gradient, known)
    torch.library.opcheck(distill._gradient_, known)


@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize("weighted", [False, True])
def test_compiles_as_one_graph(device, backend, weighted):
    inputs = problem(device, 2, 3, 2, 50)
    pairs = torch.tensor([[1.0, 0.5], [0.0, 1.0]], device=device) if weighted else None

    def step(student, teacher, center):
        logits = student * 2
        options = TEMPS | {"pair_weights": pairs, "inplace_backward": True, "backend": backend}
        return distill_loss(logits, teacher, center, **options) * 2

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    expected = step(*inputs)
    actual = compiled(*inputs)
    torch.testing.assert_close(actual, expected)
    gradients = (torch.autograd.grad(loss, inputs[:1])[0] for loss in (actual, expected))
    torch.testing.assert_close(*gradients)


def test_more_teachers_than_a_lane_holds_go_to_the_reference(device):
    inputs = problem(device, 1, 1, 9, 20)
    with pytest.raises(ValueError, match="up to 8 teacher views, not 9"):
        triton(*inputs, **TEMPS)
    torch.testing.assert_close(distill_loss(*inputs, **TEMPS), reference.distill_loss(*inputs, **TEMPS))
