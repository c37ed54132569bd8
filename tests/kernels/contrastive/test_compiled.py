"""What the JIT makes of the kernels at any shape: one of each, no spills, two programs a multiprocessor on sm_90."""

import torch

from silc_kernels import contrastive_loss
from silc_kernels.contrastive.triton_launch import gate_candidates
from silc_kernels.gate.dry import dry, rows

# Pairs, width, views: a batch and a width that 16 does not divide, one of each, and what ships.
SHAPES = (301, 768, 1), (64, 12, 2), (1, 1, 1), (301, 511, 2), (4096, 768, 1)
KERNELS = (
    "log_sum_exp",
    "merge",
    "softmax_gradient",
    "sigmoid_gradient",
    "pairs",
    "pairs",
    "text_pairs",
)  # of either kind
MULTIPLY = "log_sum_exp_kernel", "softmax_gradient_kernel", "sigmoid_gradient_kernel"
REGISTERS = 65536  # of a multiprocessor


def test_one_kernel_serves_every_shape():
    scalars = [torch.ones(1).requires_grad_() for _ in range(2)]
    with dry(90) as run:
        for n, d, views in SHAPES:
            features = torch.empty(views, n, d, dtype=torch.bfloat16), torch.empty(n, d, dtype=torch.bfloat16)
            inputs = [x.requires_grad_() for x in features]
            for kind in ("softmax", "sigmoid"):
                contrastive_loss(*inputs, *scalars, kind=kind).backward()
    assert not run.problems
    found = rows(run.launches, 90)
    assert sorted(row.name for row in found) == sorted(f"{name}_kernel" for name in KERNELS)
    for row in found:
        assert row.spill_bytes == row.hazards == 0, row
        assert not row.serialized, row
        assert row.wgmma == row.bulk_copies == (row.name in MULTIPLY), row
        if row.wgmma:
            assert 2 * 8 * 32 * row.registers <= REGISTERS, row


def test_the_gate_is_told_of_two_programs():
    """One in place of two is a fault then."""
    stated = {
        each.name: each.programs for each in gate_candidates() if each.bulk_copies and each.architectures == (90,)
    }
    assert set(stated.values()) == {2}, stated
    assert len(stated) == 6
