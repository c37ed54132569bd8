"""torch.compile(fullgraph=True) of every op with its gradients: equal to eager code, at several batch sizes."""

import pytest
import torch

from tests.kernels.torch_features.problems import OPS, gradients, problem

# Of the others a compiled call of fixed shapes is tested beside the op.
STATIC = ["distill_loss", "distill_head_loss", "resize_positions", "photometric", "center_update"]


@pytest.mark.parametrize("op", [op for op in OPS if op != "crop_resize"])
def test_values_and_gradients_at_several_batch_sizes(op):
    compiled = torch.compile(problem(op).call, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (4, 7):
        check(op, n, compiled)


@pytest.mark.parametrize("op", STATIC)
def test_values_and_gradients_at_fixed_shapes(op):
    check(op, 4, torch.compile(problem(op).call, fullgraph=True, dynamic=False, backend="aot_eager"))


def check(op, n, compiled):
    of = problem(op, n)
    found, expected = compiled(*of.inputs), of.call(*of.inputs)
    torch.testing.assert_close(found, expected)
    if of.trained:
        torch.testing.assert_close(gradients(found, of), gradients(expected, of))


def test_crop_resize_is_computed_between_graphs():
    """What it checks are values: it stays outside of compiled code, and compiles with a break."""
    of = problem("crop_resize")
    compiled = torch.compile(lambda data: of.call(data) + 1, backend="aot_eager")
    assert torch.equal(compiled(*of.inputs), of.call(*of.inputs) + 1)
