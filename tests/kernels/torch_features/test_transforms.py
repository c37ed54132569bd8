"""Forward-mode derivatives and torch.func's transforms are refused in words, whichever input takes part in them."""

import functools

import pytest
import torch
from torch.autograd import forward_ad

from silc_kernels import distill_loss
from silc_kernels.common.transforms import refuse_transforms
from silc_kernels.patch_embedding import MultiCropPatchEmbed
from tests.kernels.torch_features.problems import OPS, TEMPS, gradients, pixels, problem

# center_update is a statistic without gradients, made of plain torch: it refuses nothing.
REFUSING = [op for op in OPS if op != "center_update"]
DIFFERENTIABLE = [op for op in REFUSING if problem(op).trained]
FLOATS = [(op, place) for op in DIFFERENTIABLE for place, x in enumerate(problem(op).inputs) if x.is_floating_point()]
NO_TANGENT = "{} has no forward-mode derivative .*use reverse mode"
NAMES = {"softmax": "contrastive_loss", "sigmoid": "contrastive_loss"}


def name(op: str) -> str:
    return NAMES.get(op, op)


def along(op: str, place: int):
    """The op as a function of one input, and that input."""
    of = problem(op)
    inputs = [x.detach() for x in of.inputs]
    return lambda x: of.call(*inputs[:place], x, *inputs[place + 1 :]), inputs[place]


@pytest.mark.parametrize(("op", "place"), FLOATS)
def test_a_tangent_is_refused(op, place):
    call, x = along(op, place)
    refused = pytest.raises(RuntimeError, match=NO_TANGENT.format(name(op)))
    with refused:
        torch.func.jvp(call, (x,), (torch.ones_like(x),))
    with refused:
        torch.func.jacfwd(call)(x)
    with forward_ad.dual_level(), refused:
        call(forward_ad.make_dual(x, torch.ones_like(x)))


def test_a_tangent_of_pair_weights_or_of_the_base_positions_is_refused():
    student, teacher, center = (x.detach() for x in problem("distill_loss").inputs)
    module, weights = MultiCropPatchEmbed(8, 8, (3, 3)), torch.ones(3, 2)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(weights, weights)
        with pytest.raises(RuntimeError, match=NO_TANGENT.format("distill_loss")):
            distill_loss(student, teacher, center, pair_weights=dual, **TEMPS)
    table = module.pos_embed.detach()
    call = lambda x: torch.func.functional_call(module, {"pos_embed": x}, ([pixels(1)],))  # noqa: E731
    with pytest.raises(RuntimeError, match=NO_TANGENT.format("resize_positions")):
        torch.func.jvp(call, (table,), (torch.ones_like(table),))


def test_a_tangent_of_the_photometric_parameters_is_an_error():
    """Of the op, or of torch where their values are checked."""
    call, rows = along("photometric", 1)
    with pytest.raises(RuntimeError, match="forward"):
        torch.func.jvp(call, (rows,), (rows,))


@pytest.mark.parametrize("op", OPS)
def test_without_a_tangent_a_call_passes_where_forward_mode_is_open(op):
    of = problem(op)
    expected = of.call(*of.inputs)
    with forward_ad.dual_level():
        found = of.call(*of.inputs)
        assert torch.equal(found, expected)
    if of.trained:
        for mine, theirs in zip(gradients(found, of), gradients(expected, of), strict=True):
            assert torch.equal(mine, theirs)


@pytest.mark.parametrize("transform", ["grad", "vmap", "jvp"])
@pytest.mark.parametrize("op", OPS)
def test_a_call_that_takes_no_part_in_a_transform_is_right_or_an_error(op, transform):
    """torch refuses some of them within any transform; bytes and statistics pass."""
    of = problem(op)
    expected, called = of.call(*of.inputs), []

    def other(x):
        called.append(of.call(*of.inputs))
        return x.square().sum()

    apply = {
        "grad": lambda: torch.func.grad(other)(torch.ones(2)),
        "vmap": lambda: torch.func.vmap(other)(torch.ones(2, 2)),
        "jvp": lambda: torch.func.jvp(other, (torch.ones(2),), (torch.ones(2),)),
    }
    try:
        apply[transform]()
    except RuntimeError:
        assert of.trained
        return
    assert torch.equal(called[0].detach(), expected)


@pytest.mark.parametrize("op", DIFFERENTIABLE)
@pytest.mark.parametrize("transform", ["grad", "jacrev", "vjp"])
def test_reverse_transforms_are_refused(op, transform):
    call, x = along(op, problem(op).trained[0])
    total = lambda x: call(x).sum()  # noqa: E731
    apply = functools.partial(torch.func.vjp, total) if transform == "vjp" else getattr(torch.func, transform)(total)
    with pytest.raises(RuntimeError, match=rf"{name(op)} does not run under torch\.func\.grad.*backward\(\)"):
        apply(x)


@pytest.mark.parametrize("op", REFUSING)
def test_vmap_is_refused(op):
    call, x = along(op, 0)
    with pytest.raises(RuntimeError, match=rf"{name(op)} does not run under torch\.func\.vmap; call it in a loop"):
        torch.func.vmap(call)(torch.stack([x, x]))


@pytest.mark.parametrize("op", DIFFERENTIABLE)
def test_a_tangent_in_compiled_code_is_refused(op):
    call, x = along(op, problem(op).trained[0])
    compiled = torch.compile(lambda x: torch.func.jvp(call, (x,), (x,))[1], backend="eager")
    with pytest.raises(RuntimeError, match=NO_TANGENT.format(name(op))):
        compiled(x)


def test_tensors_in_lists_are_seen():
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(torch.ones(2), torch.ones(2))
        refuse_transforms("op", [torch.ones(2), None, "text", 3, [torch.ones(1)]])
        with pytest.raises(RuntimeError, match="op has no forward-mode derivative"):
            refuse_transforms("op", [1, (torch.ones(2), [dual])])
