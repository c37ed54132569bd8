"""What was exported is read back as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from silc.config import Config
from silc.interchange.read.open_clip import CONFIG, MAX_JSON, WEIGHTS, is_export, load_export
from silc.interchange.timm_names import _TIMM_NAMES, named_sizes
from silc.model import LogitScale, SilcModel, build
from silc.model.vision import Pixels
from tests.interchange.sources import export


def rewrite(path: Path, dotted: str, value: object) -> None:
    """Replace a field of a JSON file; None removes it."""
    tree = json.loads(path.read_text())
    *parents, last = dotted.split(".")
    inside = tree
    for name in parents:
        inside = inside[name]
    inside[last] = value
    if value is None:
        del inside[last]
    path.write_text(json.dumps(tree))


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


def test_sizes_of_towers_with_a_name():
    for (patch, width, depth, heads, ratio), (stem, images) in _TIMM_NAMES.items():
        for image in images:
            sizes = named_sizes(f"{stem}_{image}")
            assert (sizes.image_size, sizes.patch_size, sizes.width) == (image, patch, width)
            assert (sizes.depth, sizes.heads, sizes.mlp_ratio) == (depth, heads, ratio)
    assert named_sizes("vit_tiny") is None


def test_an_export_of_an_earlier_version_comes_back(config, model, tmp_path):
    """Its tower's name is the path of the folder where it was written; only what lies beside it counts."""
    export(model.state_dict(), LogitScale("softmax"), config, tmp_path)
    rewrite(tmp_path / CONFIG, "model_cfg.vision_cfg.timm_model_name", "local-dir:/somewhere/else/vision")
    read, _ = load_export(tmp_path)
    assert vars(read.model.vision) == vars(config.model.vision)


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


FOREIGN = {
    "model_cfg.vision_cfg": None,
    "model_cfg.vision_cfg.timm_model_name": "vit_tiny",
    "model_cfg.vision_cfg.timm_pool": "avg",
    "model_cfg.text_cfg.width": "wide",
    "model_cfg.text_cfg.layers": 10**9,
    "model_cfg.text_cfg.no_causal_mask": False,
    "model_cfg.text_cfg.norm_kwargs.eps": 1e-5,
    "model_cfg.quick_gelu": True,
    "preprocess_cfg.mean": [0.5, 0.5],
    "preprocess_cfg.std": [0.5, 0.5, 0.0],
    "preprocess_cfg.resize_mode": "shortest",
}


@pytest.mark.parametrize("field", FOREIGN)
def test_a_folder_that_asks_for_another_model_is_refused(config, model, tmp_path, field):
    """One field changed. The message names the file."""
    export(model.state_dict(), LogitScale("softmax"), config, tmp_path)
    rewrite(tmp_path / CONFIG, field, FOREIGN[field])
    with pytest.raises(ValueError, match=CONFIG) as refused:
        load_export(tmp_path)
    assert "silc export" in str(refused.value)


@pytest.mark.parametrize("sizes", ["depth9", "heads3", "depth999999"])
def test_sizes_that_the_weights_do_not_have_are_refused_before_a_model_is_built(config, model, tmp_path, sizes):
    export(model.state_dict(), LogitScale("softmax"), config, tmp_path)
    name = "silc_vit.image64_patch8_width128_depth3_heads4_mlp512"
    changed = name.replace("depth3" if sizes.startswith("depth") else "heads4", sizes)
    rewrite(tmp_path / CONFIG, "model_cfg.vision_cfg.timm_model_name", changed)
    with pytest.raises(
        ValueError,
        match=r"3 blocks visual\.trunk\.blocks|3 heads do not divide a width of 128|depth: input should be less",
    ):
        load_export(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "no json", "[]", "[" * 100_000, '{"model_cfg":' * 100_000, " " * (MAX_JSON + 1), "{}"]
)
def test_hostile_json_is_refused(config, model, tmp_path, text):
    export(model.state_dict(), LogitScale("softmax"), config, tmp_path)
    (tmp_path / CONFIG).write_text(text)
    with pytest.raises(ValueError, match="silc export"):
        load_export(tmp_path)


def test_cut_weights_are_refused(config, model, tmp_path):
    export(model.state_dict(), LogitScale("softmax"), config, tmp_path)
    data = (tmp_path / WEIGHTS).read_bytes()
    for cut in (0, 4, 100, len(data) - 1):
        (tmp_path / WEIGHTS).write_bytes(data[:cut])
        with pytest.raises(ValueError, match="is damaged"):
            load_export(tmp_path)
