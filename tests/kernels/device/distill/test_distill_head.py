"""distill_head_loss on Triton: as accurate as plain torch, deterministic, and nothing of the size of the logits."""

import pytest
import torch

from silc_kernels import distill_head_loss
from silc_kernels.common.triton_runtime import INTERPRET
from silc_kernels.distill import torch_head as reference
from silc_kernels.distill import triton_head as distill_head
from silc_kernels.distill import triton_head_launch as distill_head_tiles
from tests.kernels.oracles import distillation, normal, relative, unit
from tests.kernels.tolerance import FLOOR, assert_as_good_as

TEMPS = {"student_temp": 0.1, "teacher_temp": 0.04}
# Of a log-sum-exp and of a logit over its temperature, at most 1 / 0.1: what is left of a loss where these are equal.
ROUNDING = 8 * torch.finfo(torch.float32).eps / TEMPS["student_temp"]
# S, N, T, K, d: one of each, odd everything, several blocks of rows and of prototypes, one long split
SHAPES = [(1, 1, 1, 3, 4), (2, 5, 2, 150, 24), (10, 14, 2, 200, 32), (3, 2, 3, 1200, 16), (1, 2, 1, 130, 256)]
if torch.cuda.is_available():
    SHAPES += [(10, 64, 2, 65536, 256), (8, 33, 2, 65537, 256), (10, 256, 2, 8192, 192)]
# Compiled kernels have products of half precision only; the interpreter's own are of float32.
DTYPE = torch.float32 if INTERPRET else torch.bfloat16
DTYPES = {DTYPE, torch.bfloat16, torch.float16}


def problem(device, S=3, N=5, T=2, K=150, d=32, dtype=DTYPE, size=1.0):
    """student, teacher, student_weight, teacher_weight, center; what trains asks for a gradient."""
    student, teacher = (size * unit(count, N, d, seed=seed) for count, seed in ((S, 1), (T, 3)))
    weight, teacher_weight = unit(K, d, seed=2), unit(K, d, seed=4)
    student, teacher, weight, teacher_weight = (
        tensor.to(device, dtype) for tensor in (student, teacher, weight, teacher_weight)
    )
    center = 0.05 * normal(K, seed=5, dtype=torch.float32).to(device)
    return student.requires_grad_(), teacher, weight.requires_grad_(), teacher_weight, center


def solve(loss, inputs, **options):
    value = loss(*inputs, **(TEMPS | options))
    return value, *torch.autograd.grad(value, (inputs[0], inputs[2]))


def triton(*inputs, **options):
    return distill_head_loss(*inputs, backend="triton", **options)


def exact(student, teacher, weight, teacher_weight, center, student_temp, teacher_temp, pair_weights=None):
    logits = student @ weight.T, teacher @ teacher_weight.T
    return distillation(*logits, center, student_temp, teacher_temp, pair_weights)


def own_term(student, weight, student_temp, pair_weights=None, **_):
    """Value and gradients of the students' log-sum-exps alone; the teachers' pull is the rest."""
    mass = torch.ones(len(student)) if pair_weights is None else pair_weights.sum(1)
    lse = torch.logsumexp(student @ weight.T / student_temp, dim=-1).mean(1)
    value = (lse * mass.to(lse)).sum() / float(mass.sum())
    return value, *torch.autograd.grad(value, (student, weight))


def floors(inputs, wide, true, **options):
    """Of the loss, the features' gradient and the prototypes', beyond twice the error of plain torch.

    The two terms of a loss or a gradient are rounded before they cancel. Half precision: exponentials, and the features
    that teachers pull towards, enter products rounded to half a unit each. The prototypes' gradient finds each logit
    again, in another order of summation: exponentials are off by one rounding of the logit over its temperature, where
    plain torch divides them by their own sum.
    """
    dtype, found = inputs[0].dtype, []
    for whole, own in zip(true, own_term(wide[0], wide[2], **options), strict=True):
        sizes = [(part.norm(), part.abs().max()) for part in (own.detach(), (whole - own).detach(), whole.detach())]
        terms = max(float((first + second) / total) for first, second, total in zip(*sizes, strict=True))
        found.append((FLOOR if dtype == torch.float32 else torch.finfo(dtype).eps) * terms)
    lengths = (float(inputs[i].detach().float().norm(dim=-1).max()) for i in (0, 1))
    temps = options["student_temp"], options["teacher_temp"]
    found[2] += torch.finfo(torch.float32).eps * max(size / temp for size, temp in zip(lengths, temps, strict=True))
    return found


def compare(inputs, **options):
    wide = [tensor.detach().cpu().double() for tensor in inputs]
    wide[0].requires_grad_(), wide[2].requires_grad_()
    results = solve(triton, inputs, **options), solve(reference.distill_head_loss, inputs, **options)
    true = solve(exact, wide, **options)
    allowed = floors(inputs, wide, true, **(TEMPS | options))
    names = "loss", "gradient of the features", "gradient of the prototypes"
    for what, mine, plain, sure, floor in zip(names, *results, true, allowed, strict=True):
        assert mine.dtype == plain.dtype
        assert_as_good_as(mine, plain, sure, what, floor)


@pytest.mark.parametrize("shape", SHAPES)
def test_as_accurate_as_plain_torch(device, shape):
    compare(problem(device, *shape))


@pytest.mark.parametrize("dtype", sorted(DTYPES, key=str))
@pytest.mark.parametrize("weighted", [False, True])
def test_every_dtype_and_pairs_of_their_own_weight(device, dtype, weighted):
    # The second student counts nothing: weights of 0 are allowed.
    weights = torch.tensor([[1.0, 2.0], [0.0, 0.0], [0.5, 0.0]]) if weighted else None
    compare(problem(device, dtype=dtype), pair_weights=weights)


@pytest.mark.parametrize("size", [1e-6, 1.0, 100.0])
@pytest.mark.parametrize("temp", [0.01, 1.0])
def test_extreme_logits(device, size, temp):
    """From flat rows to one-hot ones, whose logits over the temperature are in the thousands."""
    compare(problem(device, 2, 3, 2, 200, 16, size=size), student_temp=temp, teacher_temp=temp)


def test_any_strides_and_any_alignment(device):
    student, teacher, weight, teacher_weight, center = problem(device)
    student = student.detach().transpose(0, 2).contiguous().transpose(0, 2).requires_grad_()
    weight = torch.cat([weight.detach().flatten()[:1], weight.detach().flatten()])[1:].view_as(weight)
    assert not student.is_contiguous()
    assert weight.data_ptr() % 16
    compare((student, teacher, weight.requires_grad_(), teacher_weight, center))


def test_single_rows_of_wider_tensors(device):
    """One row is contiguous for torch at a stride that no descriptor takes."""
    student, teacher, weight, teacher_weight, center = problem(device, 1, 1, 1, 1, 16)
    student, teacher, weight, teacher_weight = (
        torch.cat([tensor.detach(), tensor.detach()[..., :1]], -1)[..., :16]
        for tensor in (student, teacher, weight, teacher_weight)
    )
    assert weight.is_contiguous()
    assert weight.stride(0) == 17
    loss = triton(student.requires_grad_(), teacher, weight.requires_grad_(), teacher_weight, center, **TEMPS)
    assert abs(float(loss.detach())) < ROUNDING  # one prototype has all the probability
    for gradient in torch.autograd.grad(loss, (student, weight)):
        assert float(gradient.abs().max()) < ROUNDING / TEMPS["student_temp"]


def test_the_prototypes_gradient_is_finite_where_a_logit_rounds_above_the_largest(device):
    inputs = [tensor.detach() for tensor in problem(device, 2, 3, 2, 50, 16)]
    pairs = torch.full((2, 2), 1 / 12, device=device)
    *_, norms = distill_head._forward(*inputs, pairs, 1e-6, 1e-6)
    one = torch.ones((), device=device)
    expected = distill_head._weight_gradient(one, *inputs, pairs, norms, 1e-6, 1e-6)
    # The largest logits as another order of summation might have found them.
    norms[0] -= 2e-4
    actual = distill_head._weight_gradient(one, *inputs, pairs, norms, 1e-6, 1e-6)
    assert actual.isfinite().all()
    assert relative(actual, expected) < 0.1  # a logit of 1 rounds by 6e-8, which here is 6% of the temperature


def test_autocast_does_not_change_the_prototypes_gradient(device):
    inputs = problem(device)
    expected = solve(triton, inputs)
    with torch.autocast(device.type, torch.bfloat16):
        actual = solve(triton, inputs)
    assert all(torch.equal(mine, plain) for mine, plain in zip(actual, expected, strict=True))


def test_mixed_dtypes(device):
    student, teacher, weight, teacher_weight, center = problem(device, dtype=torch.bfloat16)
    compare((student, teacher, weight, teacher_weight, center.bfloat16()))
    mixed = student, teacher.half(), weight, teacher_weight.float(), center
    if not INTERPRET:
        with pytest.raises(ValueError, match="float32 products have no tensor cores"):
            triton(*mixed, **TEMPS)
    else:
        compare(mixed)


def test_equals_lightly(device, needs):
    DINOLoss = needs("lightly.loss").DINOLoss
    inputs = student, teacher, weight, teacher_weight, center = problem(device, 5, 3, 2, 128)
    peer = DINOLoss(output_dim=128, teacher_temp=0.04, student_temp=0.1, center_momentum=1.0).to(device)
    peer.center.copy_(center)
    # lightly leaves out the pairs of equal index.
    pairs = torch.ones(5, 2).fill_diagonal_(0)
    student, weight = (leaf.detach().float().requires_grad_() for leaf in (student, weight))
    value = peer(list(teacher.float() @ teacher_weight.float().T), list(student @ weight.T))
    theirs = value, *torch.autograd.grad(value, (student, weight))
    bound = 1e-5 if torch.float32 == DTYPE else 2 * torch.finfo(DTYPE).eps
    for mine, other in zip(solve(triton, inputs, pair_weights=pairs), theirs, strict=True):
        assert relative(mine, other) < bound


def test_two_runs_are_bitwise_equal(device):
    inputs = problem(device, 4, 36, 2, 200, dtype=torch.bfloat16)
    for first, second in zip(solve(triton, inputs), solve(triton, inputs), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("which", range(4))
def test_a_feature_that_is_not_a_number_shows_in_the_loss(device, which):
    inputs = problem(device)
    with torch.no_grad():
        inputs[which].flatten()[70] = torch.nan
    assert triton(*inputs, **TEMPS).isnan()


def test_only_what_asks_gets_a_gradient(device):
    student, teacher, weight, teacher_weight, center = problem(device)
    expected = solve(triton, (student, teacher, weight, teacher_weight, center))[1:]
    (d_student,) = torch.autograd.grad(
        2 * triton(student, teacher, weight.detach(), teacher_weight, center, **TEMPS), (student,)
    )
    (d_weight,) = torch.autograd.grad(
        2 * triton(student.detach(), teacher, weight, teacher_weight, center, **TEMPS), (weight,)
    )
    assert torch.equal(d_student, 2 * expected[0])
    assert torch.equal(d_weight, 2 * expected[1])
    leaves = [tensor.detach().requires_grad_() for tensor in (student, teacher, weight, teacher_weight, center)]
    triton(*leaves, **TEMPS).backward()
    assert [leaf.grad is not None for leaf in leaves] == [True, False, True, False, False]


@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize("which", range(5))
def test_an_input_changed_before_the_backward_is_refused(device, which, backend):
    """An update of the teacher that comes too early must not pass on one backend and change gradients on another."""
    inputs = problem(device)
    loss = distill_head_loss(*inputs, backend=backend, **TEMPS)
    with torch.no_grad():
        inputs[which].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_copies_of_the_forward_serve_the_backward(device, backend):
    """Pair weights, and a centre that is converted, may change: the gradients are of the values that were given."""
    *inputs, center = problem(device)
    center, pairs = center.bfloat16(), torch.ones(3, 2, device=device)
    expected = solve(distill_head_loss, (*inputs, center), backend=backend, pair_weights=pairs)[1:]
    loss = distill_head_loss(*inputs, center, backend=backend, pair_weights=pairs, **TEMPS)
    pairs[0] = 7
    for mine, plain in zip(torch.autograd.grad(loss, (inputs[0], inputs[2])), expected, strict=True):
        assert torch.equal(mine, plain)


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_inference_tensors(device, backend):
    inputs = problem(device)
    options = TEMPS | {"backend": backend}
    expected = distill_head_loss(*inputs, **options)
    with torch.inference_mode():
        made = [tensor.clone() for tensor in inputs]
        assert torch.equal(distill_head_loss(*made, **options), expected)
    assert torch.equal(distill_head_loss(*made, **options), expected)
    names = "student", "teacher", "student_weight", "teacher_weight", "center"
    for which in (1, 3, 4):
        mixed = [*inputs[:which], made[which], *inputs[which + 1 :]]
        with pytest.raises(ValueError, match=rf"{names[which]} was made under torch\.inference_mode.*clone\(\)"):
            distill_head_loss(*mixed, **options)


def test_nothing_of_rows_by_prototypes_is_made_or_kept(device, monkeypatch):
    # Prototypes enough that the partial sums of every split of a large GPU are fewer than the logits.
    S, N, T, K, d = 2, 72, 2, 1280, 16
    inputs, kept, made = problem(device, S, N, T, K, d), [], []
    empty = torch.empty

    def recorded(*args, **kwargs):
        made.append(empty(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(torch, "empty", recorded)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(x), x)[1], lambda x: x):
        loss = triton(*inputs, **TEMPS)
    loss.backward()
    own = {tensor.data_ptr() for tensor in inputs}
    assert max(tensor.numel() for tensor in kept if tensor.data_ptr() not in own) == S * N * d
    # A weight is kept as it is, not as a copy: under ZeRO-3 a copy would outlive the gathering.
    assert sum(tensor.data_ptr() in own for tensor in kept) == len(inputs)
    assert len(made) > 8
    assert max(tensor.numel() for tensor in made) < N * K


OTHERS = [(key, trial) for key, trials in distill_head_tiles.TRIALS.items() for trial in trials]
OTHERS += [
    ((name, 90), shape) for (name, architecture), shape in distill_head_tiles.SHIPPED.items() if architecture == 80
]


@pytest.mark.parametrize(("key", "trial"), OTHERS, ids=str)
def test_tiles_that_other_chips_or_timings_would_choose_are_as_accurate(device, key, trial, monkeypatch):
    monkeypatch.setitem(distill_head_tiles.SHIPPED, key, trial)
    compare(problem(device, 3, 30, 2, 300, 16))


@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize("which", [0, 2])
def test_a_second_derivative_is_refused(device, backend, which):
    inputs = problem(device, 2, 2, 2, 40, 16)
    loss = distill_head_loss(*inputs, backend=backend, **TEMPS)
    (gradient,) = torch.autograd.grad(loss, inputs[which], create_graph=True)
    with pytest.raises(RuntimeError, match="distill_head_loss is differentiable once"):
        gradient.pow(2).sum().backward()


def test_the_operators_pass_opcheck(device):
    inputs = problem(device, 2, 2, 2, 20, 16)
    pairs = torch.full((2, 2), 1 / 8, device=device)
    torch.library.opcheck(distill_head._forward, (*inputs, pairs, 0.1, 0.04))
    plain = [tensor.detach() for tensor in inputs]
    *_, norms = distill_head._forward(*plain, pairs, 0.1, 0.04)
    known = torch.ones((), device=device), *plain, pairs, norms, 0.1, 0.04
    torch.library.opcheck(distill_head._weight_gradient, known)


@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize("weighted", [False, True])
def test_compiles_as_one_graph(device, backend, weighted):
    inputs = problem(device, 2, 3, 2, 50, 16)
    pairs = torch.tensor([[1.0, 0.5], [0.0, 1.0]], device=device) if weighted else None

    def step(student, teacher, weight, teacher_weight, center):
        options = TEMPS | {"pair_weights": pairs, "backend": backend}
        return distill_head_loss(student * 2, teacher, weight, teacher_weight, center, **options) * 2

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    expected, actual = step(*inputs), compiled(*inputs)
    torch.testing.assert_close(actual, expected)
    gradients = (torch.autograd.grad(loss, (inputs[0], inputs[2])) for loss in (actual, expected))
    torch.testing.assert_close(*gradients)


def test_wider_features_than_a_program_holds_go_to_the_reference(device):
    inputs = problem(device, 1, 1, 1, 20, 300)
    with pytest.raises(ValueError, match="up to 256 wide, not 300"):
        triton(*inputs, **TEMPS)
    torch.testing.assert_close(distill_head_loss(*inputs, **TEMPS), reference.distill_head_loss(*inputs, **TEMPS))


def train(device, backend: str, steps: int = 4) -> list[float]:
    from silc.config import HeadConfig
    from silc.model.head import DistillInputs, PrototypeHead

    torch.manual_seed(0)
    head = PrototypeHead(48, HeadConfig(prototypes=96, hidden=64, bottleneck=32))
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    head.to(device, DTYPE)
    features, center = normal(3, 4, 48, seed=1, dtype=DTYPE).to(device), torch.zeros(96, device=device)
    teacher, weight = unit(2, 4, 32, seed=2, dtype=DTYPE).to(device), unit(96, 32, seed=3, dtype=DTYPE).to(device)
    inputs = DistillInputs(teacher=teacher, weight=weight, center=center, **TEMPS, backend=backend)
    optimizer, losses = torch.optim.SGD(head.parameters(), lr=0.5), []
    for _ in range(steps):
        loss = head(features, teacher, inputs)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    return losses


def test_the_head_trains_to_the_losses_of_the_reference(device, needs):
    needs("pydantic")  # the trainer's configuration does
    losses = train(device, "triton")
    assert losses[-1] < losses[0]
    assert losses == pytest.approx(train(device, "torch"), rel=1e-5 if torch.float32 == DTYPE else 1e-2)


if torch.cuda.is_available():

    def test_memory_at_full_size(device):
        """Beyond inputs and gradients: 0.1 GB, where the logits would be 1.6."""
        inputs = problem(device, 10, 1024, 2, 65536, 256)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        triton(*inputs, **TEMPS).backward()
        gradients = sum(leaf.grad.nbytes for leaf in (inputs[0], inputs[2]))
        assert torch.cuda.max_memory_allocated() - before - gradients < 0.1e9
