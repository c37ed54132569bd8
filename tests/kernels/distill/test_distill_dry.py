"""The Triton distillation ops through a driver that launches nothing: what the host does at a call, and does not do."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from silc_kernels import center_update, distill_head_loss, distill_loss
from silc_kernels.common import checks
from silc_kernels.common.triton_runtime import INTERPRET
from silc_kernels.distill import pairs, triton_head, triton_logits
from silc_kernels.gate.dry import dry, rows

pytestmark = pytest.mark.skipif(INTERPRET, reason="the interpreter compiles nothing")
TEMPS = {"student_temp": 0.1, "teacher_temp": 0.04}
S, N, T, K, d = 3, 4, 2, 256, 256


def logits(dtype=torch.bfloat16, S=S, N=N, T=T, K=K):
    """The arguments, and those that train."""
    student, teacher = torch.randn(S, N, K, dtype=dtype).requires_grad_(), torch.randn(T, N, K, dtype=dtype)
    return (student, teacher, torch.zeros(K)), (student,)


def features(dtype=torch.bfloat16):
    student, weight = (torch.randn(*shape, dtype=dtype).requires_grad_() for shape in ((S, N, d), (K, d)))
    teacher, teacher_weight = torch.randn(T, N, d, dtype=dtype), torch.randn(K, d, dtype=dtype)
    return (student, teacher, weight, teacher_weight, torch.zeros(K)), (student, weight)


OPS = pytest.mark.parametrize(("op", "make"), [(distill_loss, logits), (distill_head_loss, features)])


class Seen(TorchDispatchMode):
    """Every operator that is called, with its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls.append(func.name())
        return func(*args, **(kwargs or {}))


# What waits for a device, or copies between it and the host, or makes tensors of the host's numbers.
WAITS = ("_local_scalar_dense", "item", "nonzero", "equal", "is_nonzero", "unique", "scalar_tensor", "lift_fresh")


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    """The calls of torch's operators on the way that a call takes where nothing watches."""
    for module in (triton_head, triton_logits, pairs):
        monkeypatch.setattr(module, "eager", lambda _: True)
    with Seen() as seen:
        yield seen


@OPS
@pytest.mark.parametrize("weighted", [False, True])
def test_nothing_that_a_cuda_graph_could_not_hold(op, make, weighted, monkeypatch):
    """From the second call on: no wait, no copy to or from the host. Buffers come from torch's allocator."""
    inputs, leaves = make()
    weights = torch.tensor([[1.0, 2.0], [0.0, 1.0], [0.5, 0.5]]) if weighted else None
    call = lambda: torch.autograd.grad(op(*inputs, pair_weights=weights, **TEMPS), leaves)  # noqa: E731
    with dry(90, checked=False):
        call()
        with watched(monkeypatch) as seen:
            call()
    names = [name.removeprefix("aten::").split(".")[0] for name in seen.calls]
    assert not set(names) & set(WAITS) - ({"_local_scalar_dense", "item"} if weighted else set())
    # The casts of gradients between dtypes of one device; pair weights on the host are read there, and not sent again.
    assert names.count("_to_copy") + names.count("copy_") <= 1
    assert "_pin_memory" not in names
    assert len(names) < (15 if op is distill_loss else 30)


def test_pair_weights_that_change_in_place_are_seen():
    student, teacher = torch.empty(2, 4, 8), torch.empty(1, 4, 8)
    weights = torch.ones(2, 1)
    first = pairs.pair_matrix(weights, student, teacher)
    assert pairs.pair_matrix(weights, student, teacher) is first
    weights.numpy()[0] = 3
    torch.testing.assert_close(pairs.pair_matrix(weights, student, teacher), torch.tensor([[0.1875], [0.0625]]))
    weights[0] = 1
    assert pairs.pair_matrix(weights, student, teacher) is first
    assert pairs.pair_matrix(None, student, teacher) is pairs.pair_matrix(None, student, teacher)


def test_values_of_pair_weights_on_a_gpu_are_waited_for_once(monkeypatch):
    """Once a tensor and a version, never while a graph is captured."""
    read, tolist = [], torch.Tensor.tolist
    monkeypatch.setattr(checks, "_on_host", lambda _: False)
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: (read.append(tensor), tolist(tensor))[1])
    kept = len(checks._READ)
    weights, other = torch.ones(2, 1), torch.ones(2, 1)
    for given, times in ((weights, 1), (weights, 1), (other, 2), (weights, 2)):
        checks.check_pair_weights("op", given, 2, 1)
        assert len(read) == times
    weights[0] = -1
    with monkeypatch.context() as graph:
        graph.setattr(checks, "_capturing", lambda: True)
        checks.check_pair_weights("op", weights, 2, 1)
    assert len(read) == 2
    for _ in range(2):
        with pytest.raises(ValueError, match="not negative"):
            checks.check_pair_weights("op", weights, 2, 1)
    read.clear()
    del weights, other, given
    assert len(checks._READ) == kept


@pytest.mark.parametrize("wrong", [[[1.0], [-1e-6]], [[0.0], [0.0]], [[1.0], [float("inf")]], [[float("nan")], [1.0]]])
def test_wrong_pair_weights_that_nobody_has_read_make_the_loss_nan(wrong, monkeypatch):
    student, teacher, center = torch.randn(2, 3, 8), torch.randn(1, 3, 8), torch.zeros(8)
    weights = torch.tensor(wrong)
    assert pairs.pair_matrix(weights, student, teacher).isnan().all()
    monkeypatch.setattr("silc_kernels.distill.ops.check_pair_weights", lambda *_: None)
    prototypes = torch.randn(8, 8)
    assert distill_loss(student, teacher, center, pair_weights=weights, **TEMPS).isnan()
    assert distill_head_loss(student, teacher, prototypes, prototypes, center, pair_weights=weights, **TEMPS).isnan()


def test_the_center_of_one_process_is_a_product_and_a_mixture():
    with Seen() as seen:
        center_update(torch.zeros(8), torch.randn(4), torch.randn(8, 4), momentum=0.9)
        center_update(torch.zeros(8), torch.randn(8), momentum=0.9)
    names = [name.removeprefix("aten::").split(".")[0] for name in seen.calls]
    assert [name for name in names if name not in ("zeros", "randn", "promote_types")] == ["mv", "lerp", "lerp"]


def test_pair_weights_first_seen_in_inference_mode_serve_training():
    student, teacher, weights = torch.empty(2, 5, 8), torch.empty(1, 5, 8), torch.tensor([[2.0], [5.0]])
    with torch.inference_mode():
        for given in (weights, None):
            assert not pairs.pair_matrix(given, student, teacher).is_inference()


@OPS
@pytest.mark.parametrize("architecture", [80, 90, 100])
def test_launches_are_what_a_driver_takes(op, make, architecture):
    inputs, leaves = make()
    with dry(architecture) as run:
        torch.autograd.grad(op(*inputs, **TEMPS), leaves)
    assert run.problems == []
    names = [launch.kernel for launch in run.launches]
    if op is distill_head_loss:
        half = ["attend_bounded", "attend"]
        assert names == ["reach", *half, "finish_teacher", *half, "finish_student", "adjust", "weight_gradient"]
    else:
        assert names == ["statistics", "merge", "gradient"]
    assert [
        row for row in rows(run.launches, architecture) if row.spill_bytes > (8 if architecture == 100 else 0)
    ] == []


def test_half_precision_with_few_exponents_takes_the_online_form():
    inputs, _ = features(torch.float16)
    with dry(90) as run:
        distill_head_loss(*inputs, **TEMPS)
    assert "attend_bounded" not in [launch.kernel for launch in run.launches]


@pytest.mark.parametrize("teacher", [torch.float32, torch.bfloat16])
def test_rows_that_16_bytes_do_not_divide_spill_nothing(teacher):
    (student, other, center), leaves = logits(S=16, N=1, K=1037)
    with dry(90) as run:
        torch.autograd.grad(distill_loss(student, other.to(teacher), center, **TEMPS), leaves)
    assert run.problems == []
    assert [row.spill_bytes for row in rows(run.launches, 90)] == [0, 0, 0]


def test_the_weights_may_lie_elsewhere_in_the_backward():
    """As under ZeRO-3: what a Parameter holds is freed behind the forward, and gathered elsewhere for the backward."""
    (student, teacher, weight, teacher_weight, center), _ = features()
    parameter = torch.nn.Parameter(weight.detach().clone())
    kept = []
    with dry(90) as run:
        with torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(x), x)[1], lambda x: x):
            loss = distill_head_loss(student, teacher, parameter, teacher_weight, center, **TEMPS)
        assert any(tensor is parameter for tensor in kept)
        whole, parameter.data = parameter.data, torch.empty(0, dtype=parameter.dtype)
        parameter.data = whole.clone()
        torch.autograd.grad(loss, (student, parameter))
    assert run.problems == []


@OPS
def test_forward_mode_is_refused(op, make):
    inputs, leaves = make()
    with dry(90, checked=False), torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(leaves[0].detach(), torch.ones_like(leaves[0]))
        with pytest.raises(RuntimeError, match="forward"):
            op(dual, *inputs[1:], **TEMPS)
