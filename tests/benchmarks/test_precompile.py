"""Kernels compiled beforehand: ops taken through their launches on tensors without contents."""

from __future__ import annotations

import pytest
import torch

from benchmarks.kernels import precompile
from benchmarks.kernels.hollow import SMALL, Hollow
from silc_kernels import contrastive_loss
from silc_kernels.gate.dry import dry

SIDE = 1 << 15


def test_large_tensors_are_neither_made_nor_computed():
    with Hollow():
        huge = torch.randn(SIDE, SIDE).to(torch.bfloat16)  # gigabytes, and hours of the product
        view = huge[:3].t()
        product = huge @ huge.t()
        assert product.add_(1) is product
        small = torch.arange(4) + 1
    assert (view.shape, view.data_ptr()) == ((SIDE, 3), huge.data_ptr())
    assert product.shape == (SIDE, SIDE)
    assert product.dtype == torch.bfloat16
    assert small.tolist() == [1, 2, 3, 4]
    assert huge.numel() > SMALL


def test_an_op_launches_at_full_size_what_it_would_on_a_gpu():
    with dry(90) as run, Hollow():
        image, text = (torch.randn(32768, 768).to(torch.bfloat16).requires_grad_() for _ in range(2))
        contrastive_loss(image, text, torch.tensor([14.0], requires_grad=True)).backward()
    assert run.problems == []
    assert {launch.kernel for launch in run.launches} >= {"log_sum_exp_kernel", "softmax_gradient_kernel"}
    assert image.grad.shape == image.shape


def test_every_kind_of_work_is_found_and_one_is_compiled(monkeypatch):
    monkeypatch.setattr(precompile, "processor_time", iter((1.0, 3.5)).__next__)
    for what in precompile.WHAT:
        assert precompile.count(what, "tiny", 90) > 10
    name, launches, seconds, why = precompile.compile_one("smoke", "tiny", 14, 90)
    assert name.startswith("distill_loss")
    assert launches > 0
    assert (seconds, why) == (2.5, "")


@pytest.mark.parametrize("architecture", [86, 120])
def test_kernels_are_compiled_for_every_card(architecture):
    _, launches, _, why = precompile.compile_one("smoke", "tiny", 14, architecture)
    assert launches > 0
    assert why == ""
    assert precompile.count("trials", "tiny", architecture) == 0  # there are none for their family


def test_what_cannot_be_compiled_is_said_and_what_kernels_refuse_is_not(monkeypatch):
    def broken():
        raise ValueError("no such tile\nmore")

    def refused():
        raise ValueError("op: backend 'triton' cannot run this call: too wide")

    monkeypatch.setattr(precompile, "tasks", lambda *_: iter([("broken", broken), ("refused", refused)]))
    assert precompile.compile_one("smoke", "tiny", 0, 90)[3] == "ValueError: no such tile"
    assert precompile.compile_one("smoke", "tiny", 1, 90)[3] == ""
