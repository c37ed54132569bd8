"""Export: open_clip loads the folder and computes what the student computes."""

import json
import math
import shutil
from pathlib import Path

import open_clip
import pytest
import timm
import torch

from silc.config import Config, ModelConfig, ObjectiveConfig, VisionConfig
from silc.model import LogitScale, SilcModel, build
from silc.model.export import _TIMM_NAMES, export, timm_name

from .conftest import as_float, tiny_config


def roundtrip(model: SilcModel, scale: LogitScale, config: Config, folder: Path) -> torch.nn.Module:
    export(model.state_dict(), scale, config, folder)
    return open_clip.create_model(f"local-dir:{folder}", load_weights=True).eval()


def assert_same_embeddings(model: SilcModel, twin: torch.nn.Module, config: Config) -> None:
    size, text = config.model.vision.image_size, config.model.text
    crops = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8)
    tokens = torch.randint(1, text.vocab_size, (1, text.context_length))
    tokens[0, 5:] = 0
    with torch.no_grad():
        for normalize in (False, True):
            torch.testing.assert_close(
                model.encode_image(crops, normalize=normalize),
                twin.encode_image(as_float(crops), normalize=normalize),
                atol=1e-5,
                rtol=1e-5,
            )
            torch.testing.assert_close(
                model.encode_text(tokens, normalize=normalize),
                twin.encode_text(tokens, normalize=normalize),
                atol=1e-5,
                rtol=1e-5,
            )


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_a_tower_of_any_size_round_trips(tmp_path, kind):
    config = tiny_config()
    config.objective = ObjectiveConfig(contrastive=kind)
    model, scale = build(config), LogitScale(kind, init_scale=250.0)
    twin = roundtrip(model, scale, config, tmp_path / "out")
    assert_same_embeddings(model, twin, config)
    assert twin.logit_scale.shape == ()
    assert twin.logit_scale.exp().item() == pytest.approx(100)
    assert (twin.logit_bias is None) == (kind == "softmax")
    if kind == "sigmoid":
        assert twin.logit_bias.item() == -10


def test_vit_b16_at_256_round_trips_under_timms_name(tmp_path):
    config = Config(model=ModelConfig())
    config.model.text.vocab_size = 1000  # the table's size has no part in the arithmetic
    config.model.head.prototypes = 64
    model = build(config)
    assert_same_embeddings(model, roundtrip(model, LogitScale("softmax"), config, tmp_path), config)
    described = json.loads((tmp_path / "open_clip_config.json").read_text())["model_cfg"]["vision_cfg"]
    assert described["timm_model_name"] == "vit_base_patch16_siglip_256"
    assert not (tmp_path / "vision").exists()


def test_preprocessing_and_tokenizer_are_described(tmp_path):
    config = tiny_config()
    config.data.mean, config.data.tokenizer = (0.4, 0.5, 0.6), "org/name"
    export(build(config).state_dict(), LogitScale("softmax"), config, tmp_path)
    described = json.loads((tmp_path / "open_clip_config.json").read_text())
    assert described["preprocess_cfg"]["mean"] == [0.4, 0.5, 0.6]
    assert described["preprocess_cfg"]["size"] == 64
    assert described["model_cfg"]["text_cfg"]["hf_tokenizer_name"] == "org/name"


def test_a_moved_folder_works_after_exporting_again(tmp_path):
    config = tiny_config()
    model = build(config)
    roundtrip(model, LogitScale("softmax"), config, tmp_path / "first")
    shutil.move(tmp_path / "first", tmp_path / "second")
    with pytest.raises(FileNotFoundError):
        open_clip.create_model(f"local-dir:{tmp_path / 'second'}")
    twin = roundtrip(model, LogitScale("softmax"), config, tmp_path / "second")
    assert_same_embeddings(model, twin, config)


@pytest.mark.parametrize("sizes", list(_TIMM_NAMES), ids=lambda sizes: "-".join(map(str, sizes)))
def test_timms_names_mean_the_sizes_they_stand_for(sizes):
    patch, width, depth, heads, ratio = sizes
    stem, images = _TIMM_NAMES[sizes]
    for image in images:
        usable = image // patch * patch
        twin = timm.create_model(f"{stem}_{image}", num_classes=0, device="meta")
        assert twin.patch_embed.proj.weight.shape == (width, 3, patch, patch)
        assert twin.pos_embed.shape[1] == (usable // patch) ** 2
        assert len(twin.blocks) == depth
        assert twin.blocks[0].attn.num_heads == heads
        assert twin.blocks[0].mlp.fc1.out_features == int(width * ratio)
        assert isinstance(twin.blocks[0].mlp.act, torch.nn.GELU)
        assert twin.blocks[0].mlp.act.approximate == "none"


def test_other_sizes_have_no_name():
    assert timm_name(VisionConfig()) == "vit_base_patch16_siglip_256"
    assert timm_name(VisionConfig(image_size=240)) is None
    assert timm_name(VisionConfig(depth=11)) is None


def test_the_scale_within_its_limit_is_copied(tmp_path):
    config = tiny_config()
    twin = roundtrip(build(config), LogitScale("softmax", init_scale=20.0), config, tmp_path)
    assert twin.logit_scale.item() == pytest.approx(math.log(20.0))
