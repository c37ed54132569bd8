"""Layer-wise learning rates against timm's."""

from __future__ import annotations

import pytest
import timm
from timm.optim import param_groups_layer_decay

from silc.config import OptimConfig, ParameterRule
from silc.train.optim import parameter_groups
from tests.train import cases

DECAY = 0.7


def model():
    run = cases.config()
    run.model.vision.depth = 4
    return cases.first_model(run)


def scales(**optim) -> dict[str, float]:
    """Multiplier of the learning rate by parameter name."""
    own = model()
    names = {id(parameter): name for name, parameter in own.named_parameters()}
    groups = parameter_groups(own.named_parameters(), OptimConfig(**optim))
    return {names[id(parameter)]: group["lr_scale"] for group in groups for parameter in group["params"]}


def test_the_image_tower_equals_timm_but_for_the_final_norm() -> None:
    """timm takes that to the last block; BEiT, whose convention this is, to what follows the blocks."""
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 4, "num_heads": 2, "num_classes": 0}
    tower = timm.create_model("vit_base_patch16_siglip_256", **sizes)
    names = {id(parameter): name for name, parameter in tower.named_parameters()}
    groups = param_groups_layer_decay(tower, layer_decay=DECAY)
    theirs = {names[id(parameter)]: group["lr_scale"] for group in groups for parameter in group["params"]}
    found = scales(vision_layer_decay=DECAY)
    ours = {name.removeprefix("visual.trunk."): scale for name, scale in found.items() if name.startswith("visual.")}
    assert ours.keys() == theirs.keys()
    norm = {"norm.weight", "norm.bias"}
    assert {name for name in ours if ours[name] != pytest.approx(theirs[name])} == norm
    assert {ours[name] for name in norm} == {1.0}
    assert ours["pos_embed"] == pytest.approx(DECAY**5)
    assert ours["blocks.3.mlp.fc1.weight"] == pytest.approx(DECAY)


def test_the_text_tower_counts_alike() -> None:
    found = scales(text_layer_decay=DECAY)
    expected = {
        "text.token_embedding.weight": DECAY**3,
        "text.positional_embedding": DECAY**3,
        "text.transformer.resblocks.0.attn.in_proj_weight": DECAY**2,
        "text.transformer.resblocks.1.mlp.c_proj.bias": DECAY,
        "text.ln_final.weight": 1.0,
        "text.text_projection.weight": 1.0,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert {found[name] for name in found if not name.startswith("text.")} == {1.0}


def test_head_and_other_tower_learn_at_the_full_rate() -> None:
    found = scales(vision_layer_decay=DECAY)
    assert {found[name] for name in found if not name.startswith("visual.")} == {1.0}
    assert any(name.startswith("head.") for name in found)


def test_they_multiply_the_rules() -> None:
    rules = [ParameterRule(pattern=r"blocks\.2\.|text\.", lr=0.5, weight_decay=3.0)]
    found = scales(vision_layer_decay=DECAY, rules=rules)
    assert found["visual.trunk.blocks.2.norm1.weight"] == pytest.approx(0.5 * DECAY**2)
    assert found["visual.trunk.blocks.1.norm1.weight"] == pytest.approx(DECAY**3)
    assert found["text.ln_final.weight"] == 0.5


def test_without_decay_the_groups_are_as_they_were() -> None:
    own = model()
    groups = parameter_groups(own.named_parameters(), OptimConfig())
    assert [group["lr_scale"] for group in groups] == [1.0, 1.0]
