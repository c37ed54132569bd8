"""The student as a whole: rows, gradients, first weights, compilation."""

import copy

import pytest
import torch
import torch.nn.functional as F

from silc.model import DistillInputs, SilcModel, build, compile_blocks, initialize

from .conftest import tiny_config


def distill_inputs(model: SilcModel, teacher, **changes: object) -> DistillInputs:
    weight = model.head.weight().detach()
    values = {"student_temp": 0.1, "teacher_temp": 0.04, "center": torch.zeros(len(weight))} | changes
    return DistillInputs(teacher=teacher, weight=weight, **values)


def unit(*shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape), dim=-1)


def test_every_gradient_is_there_and_finite(model, pixels):
    tokens = torch.randint(0, 600, (4, 16))
    inputs = distill_inputs(model, unit(2, 4, 48))
    image, text, loss, _ = model(pixels(4, 2, 3, 64, 64), pixels(4, 3, 3, 32, 32), tokens, inputs)
    (image.square().sum() + text.square().sum() + loss).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_outputs_are_those_of_the_towers_alone(model, pixels):
    large, small, tokens = pixels(4, 2, 3, 64, 64), pixels(4, 3, 3, 32, 32), torch.randint(0, 600, (4, 16))
    image, text, loss, teacher = model(large, small, tokens)
    assert loss is None
    assert teacher is None
    for view in range(2):
        torch.testing.assert_close(image[:, view], model.encode_image(large[:, view]), atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(text, model.encode_text(tokens))
    assert model(large, None, None)[1] is None


def test_student_rows_are_the_small_crops_then_the_joined_large_views(model, pixels):
    large, small = pixels(4, 3, 3, 64, 64), pixels(4, 2, 3, 32, 32)
    rows = [model.encode_image(small[:, i]) for i in range(2)] + [model.encode_image(large[:, i]) for i in (1, 2)]
    weights = torch.rand(4, 2)  # one value a row, to recognise it by
    teacher = unit(2, 4, 48)
    inputs = distill_inputs(model, teacher, student_views=2, pair_weights=weights)
    loss = model(large, small, None, inputs)[2]
    torch.testing.assert_close(loss, model.head(torch.stack(rows), teacher, inputs), atol=1e-5, rtol=1e-5)


def test_a_teacher_that_shares_the_encoder_gets_detached_features(model, pixels):
    seen = []

    def teacher(features: torch.Tensor) -> torch.Tensor:
        seen.append(features)
        return model.head.bottleneck(features[:, -1:].transpose(0, 1)).detach()

    image, _, loss, used = model(pixels(3, 2, 3, 64, 64), pixels(3, 2, 3, 32, 32), None, distill_inputs(model, teacher))
    assert not seen[0].requires_grad
    torch.testing.assert_close(seen[0], image)
    assert used.shape == (1, 3, 48)
    assert loss.isfinite()


def test_distillation_without_students_is_refused(model, pixels):
    with pytest.raises(ValueError, match="small crops"):
        model(pixels(2, 2, 3, 64, 64), None, None, distill_inputs(model, unit(2, 2, 48)))


def test_encode_image_takes_a_tensor_or_a_list_and_normalises(model, pixels):
    crop, other = pixels(2, 3, 64, 64), pixels(3, 3, 32, 48)
    single, listed = model.encode_image(crop, normalize=True), model.encode_image([crop, other], normalize=True)
    torch.testing.assert_close(single, listed[0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(single.norm(dim=-1), torch.ones(2))
    dense = model.encode_image(other, dense=True, normalize=True)
    assert dense.shape == (3, 4, 6, 128)
    torch.testing.assert_close(dense.norm(dim=-1), torch.ones(3, 4, 6))
    torch.testing.assert_close(model.encode_text(torch.ones(2, 16).int(), normalize=True).norm(dim=-1), torch.ones(2))


def test_initialisation_leaves_nothing_out_and_depends_on_the_seed_alone(config):
    one, again, other = (SilcModel(config.model) for _ in range(3))
    torch.manual_seed(0)
    initialize(one, seed=7)
    torch.manual_seed(1)
    initialize(again, seed=7)
    initialize(other, seed=8)
    for (name, a), b, c in zip(one.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert a.isfinite().all(), name
        assert torch.equal(a, b), name
        if a.std() > 0:
            assert not torch.equal(a, c), name


def test_a_parameter_no_rule_knows_stays_nan(config):
    model = SilcModel(config.model)
    model.head.forgotten = torch.nn.Parameter(torch.zeros(3))
    initialize(model, seed=0)
    assert model.head.forgotten.isnan().all()


def test_first_weights_have_the_published_deviations(model):
    trunk, text = model.visual.trunk, model.text
    expected = {
        trunk.blocks[1].attn.qkv.weight: 0.02,
        trunk.blocks[0].mlp.fc2.weight: 0.02,
        trunk.attn_pool.kv.weight: 0.02,
        trunk.pos_embed: 0.02,
        trunk.attn_pool.latent: 0.88 * 128**-0.5,  # a normal cut at two deviations
        text.token_embedding.weight: 0.02,
        text.transformer.resblocks[0].attn.in_proj_weight: 96**-0.5,
        text.transformer.resblocks[1].attn.out_proj.weight: 96**-0.5 * 6**-0.5,
        text.transformer.resblocks[2].mlp.c_fc.weight: (2 * 96) ** -0.5,
        text.transformer.resblocks[0].mlp.c_proj.weight: 96**-0.5 * 6**-0.5,
        text.text_projection.weight: 96**-0.5,
        model.head.mlp[0].weight: 0.02 * (2048 / 128) ** 0.5,  # the gain DINO has at its width of 2048
        model.head.last_layer.weight: 48**-0.5 / 3**0.5,
    }
    for tensor, std in expected.items():
        assert tensor.std().item() == pytest.approx(std, rel=0.25 if tensor.numel() < 1000 else 0.05)


def test_compiled_blocks_give_the_same_features(pixels):
    plain = build(tiny_config())
    compiled = copy.deepcopy(plain)
    seen = []

    def backend(graph: torch.fx.GraphModule, inputs: list) -> torch.fx.GraphModule:
        seen.append(graph)
        return graph

    compile_blocks(compiled, backend=backend)
    crops, tokens = [pixels(2, 3, 64, 64), pixels(3, 3, 32, 32)], torch.randint(0, 600, (2, 16))
    for one, two in zip(plain.visual(crops), compiled.visual(crops), strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(plain.text(tokens), compiled.text(tokens), atol=1e-6, rtol=1e-5)
    # One graph for the image blocks, and for the text blocks one without and one with the last position alone.
    assert len(seen) == 3
    torch.cat(compiled.visual(crops)).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in compiled.visual.parameters())


def test_the_compile_option_compiles_the_blocks():
    model = SilcModel(tiny_config(compile=True).model)
    blocks = [*model.visual.trunk.blocks, *model.text.transformer.resblocks]
    assert all(block._compiled_call_impl is not None for block in blocks)
