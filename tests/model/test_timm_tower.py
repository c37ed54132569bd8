"""Towers that timm builds from a name of `silc.model.timm_tower` alone."""

import pytest
import timm
import torch

from silc.config import VisionConfig
from silc.interchange.timm_names import timm_name
from silc.model import VisionTower, initialize
from silc.model.timm_tower import tower_name, tower_sizes

SMALL = "silc_vit.image32_patch8_width32_depth2_heads2_mlp128"


@pytest.mark.parametrize(("gelu", "name"), [("exact", SMALL), ("tanh", f"{SMALL}_tanh")])
def test_a_name_says_which_gelu_and_timm_builds_it(gelu, name):
    vision = VisionConfig(image_size=32, patch_size=8, width=32, depth=2, heads=2, gelu=gelu)
    assert tower_name(vision) == name
    assert tower_sizes(name).gelu == gelu
    ours = VisionTower(vision).double()
    initialize(ours, seed=1)
    for parameter in ours.parameters():  # so that the two approximations are apart
        torch.nn.init.normal_(parameter, std=0.4)
    crops = torch.rand(3, 3, 32, 32, dtype=torch.float64)
    theirs = {}
    for kind, of in (("exact", SMALL), ("tanh", f"{SMALL}_tanh")):
        twin = timm.create_model(of).double().eval()
        twin.load_state_dict(ours.trunk.state_dict())
        theirs[kind] = twin(crops)
    torch.testing.assert_close(ours([crops])[0], theirs[gelu], atol=2e-6, rtol=1e-6)
    assert (theirs["exact"] - theirs["tanh"]).abs().max() > 1e-4


@pytest.mark.parametrize("end", ["_exact", "_tanh_tanh", "_", "_TANH"])
def test_another_ending_is_no_name(end):
    assert tower_sizes(SMALL + end) is None


def test_timms_own_names_stand_for_exact_gelu():
    assert timm_name(VisionConfig(gelu="exact")) == "vit_base_patch16_siglip_256"
    assert timm_name(VisionConfig(gelu="tanh")) is None
