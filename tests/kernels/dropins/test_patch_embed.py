"""docs/ops/patch_embed.md: its PatchEmbed and packed tokens in timm ViTs, values, gradients and state dicts."""

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from tests.kernels.dropins.pages import run

MEAN = STD = (0.5, 0.5, 0.5)
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 0}
KINDS = pytest.mark.parametrize(
    "options",
    [
        {},
        {"reg_tokens": 3},
        {"no_embed_class": True, "reg_tokens": 2},
        {"class_token": False, "global_pool": "avg"},
        {"pre_norm": True},
    ],
    ids=str,
)


def pixels(count, height, width):
    generator = torch.Generator().manual_seed(height)
    return torch.randint(0, 256, (count, 3, height, width), generator=generator).to(torch.uint8)


def normalized(crop):
    return (crop.float() / 255 - MEAN[0]) / STD[0]


def pair(**options):
    """The same ViT with timm's patch embedding and with the page's."""
    torch.manual_seed(0)
    theirs = VisionTransformer(**SMALL, **options, dynamic_img_size=True)
    ours = VisionTransformer(**SMALL, **options, dynamic_img_size=True, embed_layer=run("patch_embed")["PatchEmbed"])
    with torch.no_grad():
        for parameter in theirs.parameters():  # tokens and tables, which start at 0, too
            parameter.add_(0.02 * torch.randn_like(parameter))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


def close(mine, theirs, names=None):
    for index, (ours, other) in enumerate(zip(mine, theirs, strict=True)):
        name = index if names is None else names[index]
        largest = float(other.detach().abs().max())
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=2e-5 * largest, msg=lambda m, n=name: f"{n}: {m}")


def gradients(outputs, model):
    parameters = list(model.parameters())
    total = sum(output.square().sum() for output in outputs)
    return torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)


@KINDS
@pytest.mark.parametrize("size", [(32, 32), (16, 24)])
def test_in_a_vit_it_gives_timms_features_and_gradients(options, size):
    ours, theirs = pair(**options)
    crop = pixels(3, *size)
    expected = theirs.forward_features(normalized(crop))
    names = [name for name, _ in theirs.named_parameters()]
    for given in (crop, normalized(crop)):
        found = ours.forward_features(given)
        close([found], [expected])
        close(gradients([found], ours), gradients([expected], theirs), names)
        expected = theirs.forward_features(normalized(crop))


@KINDS
def test_several_resolutions_packed(options):
    """Prefix and positions included: as timm's `_pos_embed` of each resolution; then the rest of the ViT."""
    ours, theirs = pair(**options)
    crops = [pixels(2, 32, 32), pixels(5, 16, 16), pixels(1, 8, 40)]
    tokens = run("patch_embed")["embed"](ours, crops)
    expected = [theirs._pos_embed(theirs.patch_embed(normalized(crop))) for crop in crops]
    close(tokens, expected)
    found = [ours.norm(ours.blocks(ours.norm_pre(x))) for x in tokens]
    features = [theirs.forward_features(normalized(crop)) for crop in crops]
    close(found, features)
    names = [name for name, _ in theirs.named_parameters()]
    close(gradients(found, ours), gradients(features, theirs), names)


def test_fixed_sizes_and_a_norm_layer():
    torch.manual_seed(0)
    options = {"img_size": 16, "patch_size": 8, "embed_dim": 12, "norm_layer": torch.nn.LayerNorm}
    ours, theirs = run("patch_embed")["PatchEmbed"](**options), timm.layers.PatchEmbed(**options)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    crop = pixels(2, 16, 16)
    found, expected = ours(crop), theirs(normalized(crop))
    assert found.shape == (2, 4, 12)
    close([found], [expected])


@pytest.mark.parametrize(
    ("options", "given"),
    [({"flatten": False}, "NCHW"), ({"output_fmt": "NCHW"}, "NCHW"), ({"output_fmt": "NLC"}, "NLC")],
)
def test_a_layout_that_it_does_not_give_is_refused(options, given):
    with pytest.raises(ValueError, match=f"PatchEmbed: output_fmt is {given}; give 'NHWC'"):
        run("patch_embed")["PatchEmbed"](16, 8, **options)


def test_sizes_as_the_page_says():
    """As timm's with strict_img_size=False; nothing is padded."""
    torch.manual_seed(0)
    made = run("patch_embed")["PatchEmbed"], timm.layers.PatchEmbed
    ours, theirs = (kind(16, 8, embed_dim=12, strict_img_size=False) for kind in made)
    ours.load_state_dict(theirs.state_dict())
    crop = pixels(2, 24, 8)
    close([ours(crop)], [theirs(normalized(crop))])
    strict = made[0](16, 8, embed_dim=12)
    strict.load_state_dict(ours.state_dict())
    assert torch.equal(strict(crop), ours(crop))
    with pytest.raises(ValueError, match="patches of 8 do not divide"):
        made[0](16, 8, dynamic_img_pad=True)(pixels(1, 17, 16))


def test_under_autocast_tokens_have_its_dtype():
    ours, theirs = (model.patch_embed for model in pair())
    crop = pixels(2, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = ours(crop), theirs(normalized(crop))
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)


def test_timms_own_model_and_the_module_filled_from_it():
    """The page's own calls: create_model with the page's layer, and the module with the same tokens."""
    page = run("patch_embed")
    vit, module, crops = page["vit"], page["module"], page["crops"]
    assert type(vit.patch_embed) is page["PatchEmbed"]
    close(module.layout(crops).views(module(crops)), page["embed"](vit, crops))
