"""The EMA teacher: beside a NumPy average in every stage, and by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from silc.teacher import Fragment, build_teacher
from tests.train import cases

CPU = torch.device("cpu")


def largest_error(a: dict, b: dict) -> float:
    """Largest difference, relative to the largest value of each tensor; a bias may still be all zeros."""
    assert a.keys() == b.keys()
    return max(np.abs(a[name].double().numpy() - b[name]).max() / max(np.abs(b[name]).max(), 1e-3) for name in b)


@pytest.mark.parametrize("stage", cases.STAGES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_average_equals_numpy_of_the_masters(launched, precision: str, stage: int) -> None:
    """fp32: 50 steps. bf16: the average is fp32 and follows fp32 masters all the same."""
    found = launched(2)[0]["averages"][f"{precision}-{stage}"]
    assert largest_error(found["started"], found["first"]) == 0.0
    assert {value.dtype for value in found["average"].values()} == {torch.float32}
    assert largest_error(found["average"], found["expected"]) < 1e-6
    assert largest_error(found["average"], found["first"]) > 1e-4  # it did move


@pytest.mark.parametrize("stage", cases.STAGES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_working_copy_is_the_average_on_every_rank(launched, precision: str, stage: int) -> None:
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    for findings in launched(2):
        found = findings["averages"][f"{precision}-{stage}"]
        for name, working in found["working"].items():
            assert working.dtype == dtype
            assert torch.equal(working, found["average"][name].to(dtype)), name
            assert torch.equal(working, launched(2)[0]["averages"][f"{precision}-{stage}"]["working"][name]), name


def masters(run) -> tuple[dict[str, torch.Tensor], list[Fragment]]:
    """Flat fp32 weights of a student, and the fragments of a lone rank that read them."""
    weights = {n: p.detach().clone().flatten() for n, p in cases.first_model(run).named_parameters()}
    return weights, [Fragment(n, 0, w.numel(), lambda w=w: w) for n, w in weights.items()]


@pytest.fixture
def _uninitialised_is_nan():
    """What torch.empty gives is NaN, as it may be in a process that has run for long."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_uninitialised_is_nan")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_starts_from_the_masters_whatever_its_memory_held(dtype: torch.dtype) -> None:
    run = cases.config()
    weights, fragments = masters(run)
    teacher = build_teacher(run, fragments, dtype=dtype, device=CPU)
    for name, parameter in teacher.named_parameters():
        assert torch.equal(parameter, weights[name].view_as(parameter).to(dtype)), name


def test_a_small_step_survives_in_low_precision() -> None:
    """At momentum 0.999 a bf16 average would not move at all."""
    run = cases.config()
    weights, fragments = masters(run)
    teacher = build_teacher(run, fragments, dtype=torch.bfloat16, device=CPU)
    first = {name: value.clone() for name, value in teacher.average().items()}
    for weight in weights.values():
        weight.mul_(1.01).add_(0.01)
    for _ in range(200):
        teacher.update(0.999)
    for name, value in teacher.average().items():
        expected = weights[name].view_as(value) + 0.999**200 * (first[name] - weights[name].view_as(value))
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)


def test_head_only_follows_the_head_alone() -> None:
    run = cases.config("head_only")
    teacher = build_teacher(run, masters(run)[1], dtype=torch.float32, device=CPU)
    assert {name.split(".")[0] for name in teacher.average()} == {"head"}
    with pytest.raises(AssertionError, match="no tower"):
        teacher.bottleneck(torch.zeros(1, 2, 3, 16, 16, dtype=torch.uint8))


def test_no_distillation_no_teacher() -> None:
    run = cases.config()
    run.objective.distill = False
    assert build_teacher(run, [], dtype=torch.float32, device=CPU) is None


def test_load_average_goes_back_and_names_what_is_missing() -> None:
    run = cases.config()
    weights, fragments = masters(run)
    teacher = build_teacher(run, fragments, dtype=torch.float32, device=CPU)
    saved = {name: value.clone() for name, value in teacher.average().items()}
    for weight in weights.values():
        weight.add_(1.0)
    teacher.update(0.5)
    assert not torch.equal(teacher.average()["head.mlp.0.weight"], saved["head.mlp.0.weight"])
    teacher.load_average(saved)
    assert all(torch.equal(value, saved[name]) for name, value in teacher.average().items())
    with pytest.raises(ValueError, match=r"head\.mlp\.0\.weight needs shape \(48, 32\), the checkpoint has \(1,\)"):
        teacher.load_average(saved | {"head.mlp.0.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"head\.mlp\.0\.bias .* the checkpoint has nothing"):
        teacher.load_average({name: value for name, value in saved.items() if name != "head.mlp.0.bias"})


def test_a_hole_in_the_fragments_is_found() -> None:
    run = cases.config()
    with pytest.raises(AssertionError, match="fragments cover"):
        build_teacher(run, masters(run)[1][1:], dtype=torch.float32, device=CPU)
