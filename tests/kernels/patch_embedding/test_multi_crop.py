"""MultiCropPatchEmbed against timm's PatchEmbed with its resampled positions."""

import pytest
import torch
from timm.layers import PatchEmbed, resample_abs_pos_embed
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from silc_kernels import MultiCropPatchEmbed
from silc_kernels.patch_embedding import positions
from silc_kernels.patch_embedding.positions import resize_positions
from tests.kernels.patch_embedding.problems import IMAGENET, pixels


def by_timm(module: MultiCropPatchEmbed, crop: torch.Tensor) -> torch.Tensor:
    """Tokens [M, P + tokens, D] of timm's layers with the module's parameters, as its ViT puts them together."""
    height, width = crop.shape[-2:]
    patch = module.patch_size
    peer = PatchEmbed((height, width), patch, 3, module.weight.shape[0])
    statistics = torch.tensor([module.mean, module.std]).view(2, 3, 1, 1)
    weights = {"proj.weight": module.weight, "proj.bias": module.bias}
    x = torch.func.functional_call(peer, weights, ((crop / 255 - statistics[0]) / statistics[1],))
    grid = [height // patch, width // patch]
    x = x + resample_abs_pos_embed(module.pos_embed, grid, old_size=list(module.grid), num_prefix_tokens=0)
    return x if module.prefix is None else torch.cat([module.prefix.expand(len(crop), -1, -1), x], dim=1)


@pytest.mark.parametrize(
    ("patch", "grid", "sizes", "prefix"),
    [
        (16, (16, 16), [(1, 256, 256), (3, 96, 96)], 0),
        (14, (16, 16), [(2, 224, 224), (1, 98, 126)], 1),
        (8, (3, 5), [(2, 24, 40)], 4),
        (32, (7, 7), [(1, 64, 96), (1, 224, 224), (5, 32, 32)], 0),
    ],
)
def test_equals_timm_with_its_gradients(patch, grid, sizes, prefix):
    module = MultiCropPatchEmbed(24, patch, grid, **IMAGENET, prefix_tokens=prefix)
    crops = [pixels(m, 3, h, w, seed=i) for i, (m, h, w) in enumerate(sizes)]
    packed = module(crops)
    views = module.layout(crops).views(packed)
    expected = [by_timm(module, crop) for crop in crops]
    for view, theirs in zip(views, expected, strict=True):
        torch.testing.assert_close(view, theirs, rtol=1e-5, atol=1e-5)
    upstream = torch.randn_like(packed)
    rows = torch.cat([theirs.flatten(0, 1) for theirs in expected])
    parameters = list(module.parameters())
    assert len(parameters) == 3 + bool(prefix)
    wanted = torch.autograd.grad(rows, parameters, upstream)
    for mine, theirs in zip(torch.autograd.grad(packed, parameters, upstream), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


def test_compiles_to_one_graph():
    module = MultiCropPatchEmbed(12, 8, (4, 4), prefix_tokens=1)
    crops = [pixels(2, 3, 32, 32), pixels(3, 3, 16, 24)]
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    packed = compiled(crops)
    torch.testing.assert_close(packed, module(crops))
    torch.testing.assert_close(
        torch.autograd.grad(packed.square().sum(), module.pos_embed),
        torch.autograd.grad(module(crops).square().sum(), module.pos_embed),
    )


def test_compiles_with_several_resized_tables_and_other_resolutions_later():
    module = MultiCropPatchEmbed(12, 8, (3, 3))
    compiled = torch.compile(module, backend="aot_eager")
    for sizes in ([16, 8], [32, 8], [40, 24], [48, 16]):
        crops = [pixels(2, 3, size, size, seed=size) for size in sizes]
        expected, packed = module(crops), compiled(crops)
        torch.testing.assert_close(packed, expected)
        gradients = (torch.autograd.grad(rows.square().sum(), module.pos_embed) for rows in (packed, expected))
        torch.testing.assert_close(*gradients)


def test_checkpointing_gives_the_same_gradients():
    module = MultiCropPatchEmbed(12, 8, (4, 4), prefix_tokens=1)
    crops, parameters = [pixels(2, 3, 32, 32), pixels(3, 3, 16, 24)], list(module.parameters())
    expected = torch.autograd.grad(module(crops).sin().sum(), parameters)
    again = checkpoint(lambda: module(crops).sin(), use_reentrant=False)
    for mine, theirs in zip(torch.autograd.grad(again.sum(), parameters), expected, strict=True):
        assert torch.equal(mine, theirs)


def test_shapes_alone_on_the_meta_device():
    with torch.device("meta"):
        module = MultiCropPatchEmbed(12, 8, (4, 4), prefix_tokens=1)
        packed = module([torch.empty(2, 3, 32, 32, dtype=torch.uint8), torch.empty(3, 3, 16, 24, dtype=torch.uint8)])
        packed.sum().backward()
    assert packed.shape == (2 * 17 + 3 * 7, 12)
    assert all(p.grad.is_meta and p.grad.shape == p.shape for p in module.parameters())


def test_low_precision_and_out_dtype():
    crops = [pixels(2, 3, 16, 16)]
    module = MultiCropPatchEmbed(12, 8, (4, 4), out_dtype=torch.bfloat16)
    assert module(crops).dtype == torch.bfloat16
    assert MultiCropPatchEmbed(12, 8, (4, 4)).half()(crops).dtype == torch.float16


@pytest.mark.parametrize("grid", [(4, 4), (6, 6), (16, 16), (3, 11), (8, 8)])
def test_positions_resized_as_timm_does(grid):
    table = torch.randn(1, 64, 24, requires_grad=True)
    theirs = resample_abs_pos_embed(table, list(grid), old_size=[8, 8], num_prefix_tokens=0)[0]
    ours = resize_positions(table, (8, 8), grid)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    pull = torch.randn_like(theirs)
    (expected,) = torch.autograd.grad(theirs, table, pull)
    (got,) = torch.autograd.grad(ours, table, pull)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_a_position_matrix_made_in_inference_mode_serves_training():
    positions._KEPT.clear()
    table = torch.randn(1, 16, 8, requires_grad=True)
    with torch.inference_mode():
        resize_positions(table, (4, 4), (2, 2))
    resize_positions(table, (4, 4), (2, 2)).sum().backward()
    assert table.grad.isfinite().all()


def test_the_matrix_does_not_depend_on_defaults_or_fake_tensors():
    table = torch.randn(1, 16, 8)
    expected = resize_positions(table, (4, 4), (3, 2))
    positions._KEPT.clear()
    with FakeTensorMode() as mode:
        assert resize_positions(mode.from_tensor(table), (4, 4), (3, 2)).shape == (6, 8)
    assert torch.equal(resize_positions(table, (4, 4), (3, 2)), expected)
    positions._KEPT.clear()
    try:
        torch.set_default_dtype(torch.bfloat16)
        with torch.device("meta"):
            assert torch.equal(resize_positions(table, (4, 4), (3, 2)), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_positions_are_resized_in_float32_under_autocast():
    table, pull = torch.randn(1, 49, 8, requires_grad=True), torch.randn(25, 8)
    expected = resize_positions(table, (7, 7), (5, 5))
    wanted = torch.autograd.grad(expected, table, pull)
    with torch.autocast("cpu", torch.bfloat16):
        actual = resize_positions(table, (7, 7), (5, 5))
        gradient = torch.autograd.grad(actual, table, pull)
    assert torch.equal(actual, expected)
    assert torch.equal(gradient[0], wanted[0])


def test_misuse_is_named():
    module = MultiCropPatchEmbed(12, 8, (4, 4))
    with pytest.raises(ValueError, match=r"crops\[1\] is 4 x 16 pixels, which patches of 8 do not divide.*8 x 16"):
        module([pixels(1, 3, 16, 16), pixels(1, 3, 4, 16)])
    with pytest.raises(ValueError, match=r"crops\[0\] has shape \[3, 16, 16\]"):
        module.layout([pixels(3, 16, 16)])
    with pytest.raises(ValueError, match="grid"):
        MultiCropPatchEmbed(12, 8, (0, 4))
    with pytest.raises(ValueError, match=r"grid is 2; it must be \(rows, columns\)"):
        MultiCropPatchEmbed(12, 8, 2)
    with pytest.raises(ValueError, match=r"mean 0\.5 and std .* must be 3 numbers each"):
        MultiCropPatchEmbed(12, 8, (4, 4), mean=0.5)
    with pytest.raises(ValueError, match="prefix_tokens -1"):
        MultiCropPatchEmbed(12, 8, (4, 4), prefix_tokens=-1)
    with pytest.raises(ValueError, match=r"table has shape \[2, 9, 4\].*\[1, 4, any\]"):
        resize_positions(torch.zeros(2, 9, 4), (2, 2), (2, 2))
    with pytest.raises(ValueError, match=r"grid_out is \(0, 2\)"):
        resize_positions(torch.zeros(1, 4, 4), (2, 2), (0, 2))
    with pytest.raises(ValueError, match=r"grid_in is 4"):
        resize_positions(torch.zeros(1, 4, 4), 4, (2, 2))
