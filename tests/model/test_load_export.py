"""What was exported is read back as it was."""

from __future__ import annotations

import pytest
import torch

from silc.config import Config
from silc.model import LogitScale, SilcModel, build
from silc.model.export import _TIMM_NAMES, export, timm_heads
from silc.model.load_export import is_export, load_export
from silc.model.vision import Pixels


def test_the_same_model_comes_back(config, model, pixels, tmp_path):
    config.data.mean = (0.4, 0.5, 0.6)
    export(model.state_dict(), LogitScale("sigmoid"), config, tmp_path)
    assert is_export(tmp_path)
    read, weights = load_export(tmp_path)
    for tower in ("vision", "text"):
        ours, theirs = vars(getattr(config.model, tower)), vars(getattr(read.model, tower))
        assert {k: v for k, v in ours.items() if k != "mlp_ratio"} == {
            k: v for k, v in theirs.items() if k != "mlp_ratio"
        }
    assert read.data.mean == (0.4, 0.5, 0.6)
    assert read.data.tokenizer == "open_clip_bpe"
    assert read.views.global_size == config.model.vision.image_size
    again = SilcModel(read.model, pixels=Pixels(mean=config.data.mean), with_head=False)
    again.load_state_dict({name: weights[name] for name in again.state_dict()})
    twin = build(config)
    twin.load_state_dict(model.state_dict())
    crops = pixels(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again.encode_image(crops), twin.encode_image(crops))


def test_heads_of_towers_with_a_name(tmp_path):
    for (_, _, _, heads, _), (stem, images) in _TIMM_NAMES.items():
        assert {timm_heads(f"{stem}_{image}") for image in images} == {heads}
    with pytest.raises(ValueError, match="vit_tiny"):
        timm_heads("vit_tiny")


def test_a_named_tower_comes_back(tmp_path):
    config = Config()
    config.model.text.vocab_size, config.model.text.depth = 500, 1
    config.model.head.prototypes = 64
    export(build(config).state_dict(), LogitScale("softmax"), config, tmp_path)
    read, _ = load_export(tmp_path)
    assert read.model.vision.heads == 12
    assert read.model.vision.depth == 12
    assert read.model.vision.image_size == 256


def test_a_folder_without_weights_or_of_another_kind_is_told(config, model, tmp_path):
    export(model.state_dict(), LogitScale("softmax"), config, tmp_path)
    (tmp_path / "open_clip_model.safetensors").unlink()
    with pytest.raises(ValueError, match="no open_clip_model"):
        load_export(tmp_path)
    state = {name: value for name, value in model.state_dict().items() if "attn_pool" not in name}
    export(state, LogitScale("softmax"), config, tmp_path)
    with pytest.raises(ValueError, match="no attention-pooled ViT"):
        load_export(tmp_path)
