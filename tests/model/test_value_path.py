"""The value path against timm's modules inside open_clip, on the exported weights."""

from __future__ import annotations

import pytest
import torch

from silc.model import LogitScale

from ..interchange.test_write_open_clip import roundtrip
from .conftest import as_float


def by_timm(twin: torch.nn.Module, crops: torch.Tensor) -> torch.Tensor:
    """MaskCLIP's value path written out with timm's layers: [M, H / p, W / p, D]."""
    trunk = twin.visual.trunk
    rows, columns = (side // trunk.patch_embed.patch_size[0] for side in crops.shape[-2:])
    x = trunk.patch_embed.proj(as_float(crops)).flatten(2).transpose(1, 2)
    table = trunk.pos_embed.unflatten(1, (int(trunk.pos_embed.shape[1] ** 0.5), -1)).permute(0, 3, 1, 2)
    table = torch.nn.functional.interpolate(table, (rows, columns), mode="bicubic", antialias=True)
    x = x + table.flatten(2).transpose(1, 2)
    for block in trunk.blocks[:-1]:
        x = block(x)
    last, pool = trunk.blocks[-1], trunk.attn_pool
    value = last.attn.qkv(last.norm1(x)).chunk(3, dim=-1)[2]
    x = x + last.attn.proj(value)
    x = trunk.norm(x + last.mlp(last.norm2(x)))
    y = pool.proj(pool.kv(x).chunk(2, dim=-1)[1])
    y = y + pool.mlp(pool.norm(y))
    return y.unflatten(1, (rows, columns))


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (32, 40)], ids=str)
def test_it_equals_timms_layers(config, model, pixels, tmp_path, size):
    """At the stored grid, and at others; in fp64, so that nothing hides behind rounding."""
    twin = roundtrip(model, LogitScale("softmax"), config, tmp_path).double()
    crops = pixels(2, 3, *size)
    with torch.no_grad():
        expected = by_timm_double(twin, crops)
        found = model.visual.value_path([crops])[0]
    torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=2e-5)


def by_timm_double(twin: torch.nn.Module, crops: torch.Tensor) -> torch.Tensor:
    inputs = crops.double() / 255 * 2 - 1
    embed = twin.visual.trunk.patch_embed.proj
    handle = embed.register_forward_pre_hook(lambda module, args: (inputs,))
    try:
        return by_timm(twin, crops)
    finally:
        handle.remove()


def test_several_resolutions_in_one_pass(model, pixels):
    groups = [pixels(2, 3, 64, 64), pixels(3, 3, 32, 48)]
    with torch.no_grad():
        together = model.visual.value_path(groups)
        for group, found in zip(groups, together, strict=True):
            torch.testing.assert_close(found, model.visual.value_path([group])[0], atol=1e-5, rtol=1e-5)


def test_a_patch_sees_its_neighbours_in_the_earlier_blocks_alone(config, pixels):
    """With one block, what a patch gives depends on its own pixels only."""
    from silc.model import build

    config.model.vision.depth = 1
    lone = build(config)
    crops = pixels(1, 3, 64, 64)
    changed = crops.clone()
    changed[..., 32:, 32:] = 255 - changed[..., 32:, 32:]
    with torch.no_grad():
        (before,), (after,) = lone.visual.value_path([crops]), lone.visual.value_path([changed])
    same = torch.isclose(before, after, atol=1e-6).all(-1)[0]
    assert same[:4].all()
    assert same[:, :4].all()
    assert not same[4:, 4:].any()


def test_the_pooled_feature_of_equal_patches_is_their_value(model):
    """When all tokens are alike, attending to all of them is attending to one."""
    with torch.no_grad():
        model.visual.trunk.pos_embed.zero_()
        crops = torch.full((1, 3, 64, 64), 77, dtype=torch.uint8)
        pooled, dense = model.encode_image(crops), model.visual.value_path([crops])[0]
    torch.testing.assert_close(dense, pooled[:, None, None].expand_as(dense), atol=1e-5, rtol=1e-5)
