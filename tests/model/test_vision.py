"""The packed image tower: equal to timm's, whatever the mix of resolutions."""

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from silc.config import VisionConfig
from silc.model import SilcModel, VisionTower, initialize
from silc_kernels import PackedLayout

from .conftest import as_float, tiny_config


def timm_twin(tower: VisionTower, vision: VisionConfig, **options: object) -> torch.nn.Module:
    twin = timm.create_model(
        "vit_base_patch16_siglip_256",
        img_size=vision.image_size,
        patch_size=vision.patch_size,
        embed_dim=vision.width,
        depth=vision.depth,
        num_heads=vision.heads,
        mlp_ratio=vision.mlp_ratio,
        num_classes=0,
        dynamic_img_size=True,
        **options,
    )
    twin.load_state_dict(tower.trunk.state_dict())
    return twin.eval()


def test_equal_to_timm_called_once_per_resolution(model, config, pixels):
    twin = timm_twin(model.visual, config.model.vision)
    crops = [pixels(3, 3, 64, 64), pixels(5, 3, 32, 32), pixels(2, 3, 40, 72)]
    for ours, crop in zip(model.visual(crops), crops, strict=True):
        torch.testing.assert_close(ours, twin(as_float(crop)), atol=1e-5, rtol=1e-5)


def test_gradients_equal_timm(model, config, pixels):
    twin = timm_twin(model.visual, config.model.vision)
    crops = [pixels(3, 3, 64, 64), pixels(4, 3, 32, 32)]
    torch.cat(model.visual(crops)).square().sum().backward()
    torch.cat([twin(as_float(crop)) for crop in crops]).square().sum().backward()
    theirs = dict(twin.named_parameters())
    for name, parameter in model.visual.trunk.named_parameters():
        scale = theirs[name].grad.abs().max()
        torch.testing.assert_close(parameter.grad / scale, theirs[name].grad / scale, atol=2e-5, rtol=0, msg=name)


def test_gelu_by_tanh_equals_timms_in_the_blocks_and_in_the_pool(pixels):
    vision = VisionConfig(image_size=64, patch_size=8, width=128, depth=3, heads=4, gelu="tanh")
    tower = VisionTower(vision).double()
    initialize(tower, seed=4)
    for parameter in tower.parameters():  # so that the two approximations are apart
        torch.nn.init.normal_(parameter, std=0.2)
    exact, tanh = (timm_twin(tower, vision, act_layer=act).double() for act in ("gelu", "gelu_tanh"))
    crop = pixels(2, 3, 64, 64)
    as_double = crop.double() / 255 * 2 - 1
    features, dense = tower([as_double])[0], tower.dense([as_double])[0].flatten(1, 2)
    pooled = tower.trunk.attn_pool(dense.flatten(0, 1), PackedLayout(((2, 64),)))
    for ours, theirs, other in (
        (features, tanh(as_double), exact(as_double)),
        (dense, tanh.forward_features(as_double), exact.forward_features(as_double)),
        (pooled, tanh.attn_pool(dense), exact.attn_pool(dense)),
    ):
        torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-6)
        assert (ours - other).abs().max() > 1e-4


def test_dense_features_equal_timm(model, config, pixels):
    twin = timm_twin(model.visual, config.model.vision)
    crops = [pixels(2, 3, 64, 64), pixels(1, 3, 48, 80)]
    for ours, crop in zip(model.visual.dense(crops), crops, strict=True):
        _, _, height, width = crop.shape
        assert ours.shape == (len(crop), height // 8, width // 8, 128)
        torch.testing.assert_close(ours.flatten(1, 2), twin.forward_features(as_float(crop)), atol=1e-5, rtol=1e-5)


def test_low_precision_error_is_about_timms(model, config, pixels):
    crop = pixels(6, 3, 64, 64)
    twin = timm_twin(model.visual, config.model.vision)
    exact = twin(as_float(crop))
    theirs = (twin.bfloat16()(as_float(crop).bfloat16()).float() - exact).norm()
    ours = (model.visual.bfloat16()([crop])[0].float() - exact).norm()
    assert ours < 1.25 * theirs


@settings(max_examples=12, deadline=None)
@given(groups=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=4))
def test_one_pass_over_all_resolutions_equals_separate_passes(groups):
    tower = VisionTower(VisionConfig(image_size=32, patch_size=8, width=32, depth=2, heads=2))
    initialize(tower, seed=1)
    crops = [torch.randint(0, 256, (m, 3, 8 * rows, 8 * columns), dtype=torch.uint8) for m, rows, columns in groups]
    for together, crop in zip(tower(crops), crops, strict=True):
        assert together.shape == (len(crop), 32)
        torch.testing.assert_close(together, tower([crop])[0], atol=2e-6, rtol=1e-5)


def test_a_crop_sees_no_other(model, pixels):
    large, small = pixels(3, 3, 64, 64), pixels(4, 3, 32, 32)
    before = model.visual([large, small])
    changed = small.clone()
    changed[2] = 255 - changed[2]
    after = model.visual([large, changed])
    torch.testing.assert_close(after[0], before[0], atol=1e-6, rtol=0)
    kept = [0, 1, 3]
    torch.testing.assert_close(after[1][kept], before[1][kept], atol=1e-6, rtol=0)
    assert (after[1][2] - before[1][2]).abs().max() > 1e-2


def test_checkpointed_blocks_give_the_same_features_and_gradients(pixels):
    crops = [pixels(2, 3, 64, 64), pixels(3, 3, 32, 32)]
    plain, saving = (SilcModel(tiny_config(checkpoint_activations=flag).model) for flag in (False, True))
    initialize(plain, seed=3)
    saving.load_state_dict(plain.state_dict())
    kept = []
    for model in (plain, saving):
        held = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, held=held: held.append(t.numel()) or t, lambda t: t):
            features = torch.cat(model.visual(crops))
        kept.append(sum(held))
        features.square().sum().backward()
    assert kept[1] < 0.5 * kept[0]
    for (name, one), two in zip(plain.visual.named_parameters(), saving.visual.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize(("height", "width"), [(60, 64), (64, 4)])
def test_sides_the_patch_does_not_divide_are_refused(model, pixels, height, width):
    with pytest.raises(ValueError, match=r"patch|tokens"):
        model.visual([pixels(1, 3, height, width)])
