"""Operators are there for those who look on: a mode, a compiler, a tracer, a profiler. For nobody, they are passed by,
with the same results.
"""

import copy

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from silc_kernels import MultiCropPatchEmbed
from silc_kernels.patch_embedding.direct import unwatched
from silc_kernels.patch_embedding.positions import resize_positions, resize_to_each
from tests.kernels.patch_embedding.problems import pixels

GRIDS = [(4, 4), (2, 3), (6, 5), (2, 3)]


class Seen(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


class Subclass(torch.Tensor):
    pass


def solved(module: MultiCropPatchEmbed) -> list[torch.Tensor]:
    crops = [pixels(2, 3, 32, 32), pixels(3, 3, 16, 24)]
    packed = module(crops)
    return [packed, *torch.autograd.grad(packed.sin().sum(), list(module.parameters()))]


def test_a_mode_and_a_profiler_see_the_operators_and_nothing_changes():
    module = MultiCropPatchEmbed(12, 8, (4, 4), prefix_tokens=1)
    expected = solved(module)
    with Seen() as seen:
        watched = solved(module)
    operators = ("patch_embed_torch", "patch_embed_torch_backward", "resize_positions")
    names = {f"silc_kernels::{name}" for name in operators}
    assert names <= seen.names
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiled:
        named = solved(module)
    assert names <= {event.name for event in profiled.events()}
    for mine, theirs, others in zip(expected, watched, named, strict=True):
        assert torch.equal(mine, theirs)
        assert torch.equal(mine, others)


def test_who_looks_on():
    plain = torch.zeros(2)
    assert unwatched((plain, None, torch.nn.Parameter(plain)))
    assert not unwatched((plain, torch.zeros(2, device="meta")))
    assert not unwatched((plain, plain.as_subclass(Subclass)))
    with Seen():
        assert not unwatched((plain,))
    with TorchFunctionMode():
        assert not unwatched((plain,))
    with profile(activities=[ProfilerActivity.CPU], acc_events=True):
        assert not unwatched((plain,))
    assert not torch.jit.trace(lambda x: x + int(unwatched((x,))), plain, check_trace=False)(plain).any()
    assert not torch.compile(lambda x: x + int(unwatched((x,))), backend="eager", fullgraph=True)(plain).any()
    assert unwatched((plain,))


def test_nothing_is_recorded_where_no_gradient_is_wanted():
    module = MultiCropPatchEmbed(12, 8, (4, 4), prefix_tokens=1)
    crops = [pixels(2, 3, 32, 32), pixels(3, 3, 16, 24)]
    expected = module(crops).detach()
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            assert torch.equal(module(crops), expected)
            assert not module(crops).requires_grad
    frozen = copy.deepcopy(module).requires_grad_(False)
    assert not frozen(crops).requires_grad
    assert torch.equal(frozen(crops), expected)


def test_tables_resized_in_one_step_are_those_of_one_after_the_other():
    table = torch.randn(1, 16, 6, requires_grad=True)
    together = resize_to_each(table, (4, 4), GRIDS)
    apart = [resize_positions(table, (4, 4), grid) for grid in GRIDS]
    for mine, theirs in zip(together, apart, strict=True):
        assert torch.equal(mine, theirs)
    for used in ([0], [1, 3], [2, 0], [0, 1, 2, 3]):
        mine, theirs = (
            torch.autograd.grad(sum(each[i].sin().sum() for i in used), table, retain_graph=True)[0]
            for each in (together, apart)
        )
        torch.testing.assert_close(mine, theirs)
    with pytest.raises(ValueError, match="grid_out is"):
        resize_to_each(table, (4, 4), [(4, 4), (0, 2)])
    with pytest.raises(ValueError, match="table has shape"):
        resize_to_each(table, (5, 4), GRIDS)


def test_tables_are_differentiable_twice():
    """They are linear in the table, so that what follows decides."""
    table = torch.randn(1, 16, 2, dtype=torch.float64, requires_grad=True)
    call = lambda x: tuple(each.sin() for each in resize_to_each(x, (4, 4), GRIDS[:3]))  # noqa: E731
    assert torch.autograd.gradcheck(call, table)
    assert torch.autograd.gradgradcheck(call, table)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_tables_of_half_precision_are_resized_in_float32(dtype):
    table = torch.randn(1, 16, 6).to(dtype).requires_grad_()
    for mine, grid in zip(resize_to_each(table, (4, 4), GRIDS), GRIDS, strict=True):
        assert mine.dtype == dtype
        assert torch.equal(mine, resize_positions(table.detach().float(), (4, 4), grid).to(dtype))
