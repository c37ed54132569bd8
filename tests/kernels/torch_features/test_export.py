"""torch.export of a module that holds an op: what an exported program gives, strict or not, at other batch sizes."""

import pytest
import torch
from torch import nn
from torch.export import Dim

from silc_kernels import MultiCropPatchEmbed
from tests.kernels.torch_features.problems import OPS, gradients, pixels, problem

EXPORTED = [op for op in OPS if op != "crop_resize"]  # that looks at values to check them
OPERATORS = ("softmax", "sigmoid", "patch_embed", "resize_positions")  # with their gradients, on every backend
STRICT = pytest.mark.parametrize("strict", [False, True])


class Holder(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.call = call

    def forward(self, *inputs):
        return self.call(*inputs)


@STRICT
@pytest.mark.parametrize("op", EXPORTED)
def test_an_exported_program_gives_the_same_value(op, strict):
    of = problem(op)
    inputs = tuple(x.detach() for x in of.inputs)
    exported = torch.export.export(Holder(of.call), inputs, strict=strict)
    assert torch.equal(exported.module()(*inputs), of.call(*inputs))


@STRICT
@pytest.mark.parametrize("op", OPERATORS)
def test_an_exported_operator_has_its_gradients(op, strict):
    """They must be asked for while it is exported."""
    of = problem(op)
    exported = torch.export.export(Holder(of.call), tuple(of.inputs), strict=strict)
    found = gradients(exported.module()(*of.inputs), of)
    torch.testing.assert_close(found, gradients(of.call(*of.inputs), of))


@STRICT
@pytest.mark.parametrize("op", ["distill_loss", "distill_head_loss"])
def test_an_exported_distillation_loss_never_has_wrong_gradients(op, strict):
    of = problem(op)
    try:
        exported = torch.export.export(Holder(of.call), tuple(of.inputs), strict=strict)
        found = gradients(exported.module()(*of.inputs), of)
    except RuntimeError:  # none are promised
        return
    torch.testing.assert_close(found, gradients(of.call(*of.inputs), of))


@STRICT
@pytest.mark.parametrize("op", ["softmax", "sigmoid", "patch_embed", "center_update"])
def test_an_exported_program_takes_other_batch_sizes(op, strict):
    of, other = problem(op), problem(op, 7)
    n = Dim("n", min=2, max=1000)
    shapes = [{of.batch[place]: n} if place in of.batch else None for place in range(len(of.inputs))]
    inputs = tuple(x.detach() for x in of.inputs)
    exported = torch.export.export(Holder(of.call), inputs, strict=strict, dynamic_shapes=(tuple(shapes),))
    torch.testing.assert_close(exported.module()(*other.inputs), of.call(*other.inputs).detach())


@STRICT
def test_an_exported_module_gives_the_same_tokens(strict):
    module = MultiCropPatchEmbed(8, 8, (3, 3), prefix_tokens=1)
    crops = [pixels(2), pixels(3)[..., :8]]
    exported = torch.export.export(module, (crops,), strict=strict)
    found, expected = exported.module()(crops), module(crops)
    assert torch.equal(found, expected)
