"""The text tower: equal to open_clip's, though the last block computes the last position alone."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from open_clip.transformer import LayerNorm, TextTransformer
from torch import nn

from silc.config import TextConfig
from silc.model import TextTower, initialize


@pytest.fixture(params=["exact", "tanh"])
def towers(request) -> tuple[TextTower, TextTransformer]:
    config = TextConfig(
        context_length=12, vocab_size=300, width=48, depth=3, heads=4, mlp_ratio=3.0, gelu=request.param
    )
    ours = TextTower(config, 40)
    initialize(ours, seed=2)
    theirs = TextTransformer(
        context_length=12,
        vocab_size=300,
        width=48,
        heads=4,
        layers=3,
        mlp_ratio=3.0,
        output_dim=40,
        no_causal_mask=True,
        pool_type="last",
        proj_bias=True,
        norm_layer=lambda width: LayerNorm(width, eps=1e-6),
        act_layer=partial(nn.GELU, approximate="tanh") if request.param == "tanh" else nn.GELU,
    )
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def test_features_and_gradients_equal_open_clip(towers):
    ours, theirs = towers
    tokens = torch.randint(0, 300, (5, 12))
    tokens[1, 4:] = 0  # padding is a token like any other
    one, two = ours(tokens), theirs(tokens)
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)
    one.square().sum().backward()
    two.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        scale = gradients[name].abs().max()
        torch.testing.assert_close(parameter.grad / scale, gradients[name] / scale, atol=2e-5, rtol=0, msg=name)


def test_gelu_by_tanh_is_another_function_than_the_exact_one():
    config = TextConfig(context_length=6, vocab_size=50, width=32, depth=2, heads=2)
    exact, tanh = TextTower(config, 16).double(), TextTower(replace(config, gelu="tanh"), 16).double()
    for parameter in exact.parameters():
        nn.init.normal_(parameter, std=0.3)
    tanh.load_state_dict(exact.state_dict())
    tokens = torch.randint(0, 50, (3, 6))
    assert 1e-6 < (exact(tokens) - tanh(tokens)).abs().max() < 1e-1


def test_int32_tokens_and_short_captions(towers):
    ours, theirs = towers
    tokens = torch.randint(0, 300, (2, 7))
    torch.testing.assert_close(ours(tokens.int()), theirs(tokens), atol=1e-5, rtol=1e-5)


def test_a_caption_longer_than_the_context_is_refused(towers):
    with pytest.raises(ValueError, match=r"13 tokens.*12"):
        towers[0](torch.zeros(1, 13, dtype=torch.int64))


def test_checkpointed_blocks_give_the_same_gradients():
    config = TextConfig(context_length=6, vocab_size=50, width=32, depth=2, heads=2)
    tokens = torch.randint(0, 50, (3, 6))
    gradients, kept = [], []
    for flag in (False, True):
        tower = TextTower(config, 16, checkpoint_activations=flag)
        initialize(tower, seed=4)
        held = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, held=held: held.append(t.numel()) or t, lambda t: t):
            features = tower(tokens)
        kept.append(sum(held))
        features.square().sum().backward()
        gradients.append([parameter.grad for parameter in tower.parameters()])
    assert kept[1] < 0.5 * kept[0]
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-5)
