"""Folders of open_clip compute here what they compute there, or are refused with every difference."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from silc.config import Config
from silc.interchange.read import described, is_readable, read
from silc.interchange.read.described import describe
from silc.interchange.read.open_clip import CONFIG, WEIGHTS
from silc.interchange.shapes import shapes_of
from silc.interchange.timm_names import _TANH_NAMES, _TIMM_NAMES, is_cut, named_sizes, timm_name
from silc.model import LogitScale
from tests.interchange.foreign import MODEL_CFG, TOWER, assert_same, changed, inputs, ours, write_open_clip
from tests.interchange.sources import export

MODELS = Path(open_clip.__file__).parent / "model_configs"
WITHOUT_PROJECTION = "ViT-SO400M-16-SigLIP-i18n-256"  # of its text features
SIGLIP = sorted(name for name in open_clip.list_models() if "-SigLIP" in name and name != WITHOUT_PROJECTION)


def assert_same_features(folder: Path, twin: torch.nn.Module) -> None:
    source = read(folder)
    model = ours(source)
    crops, pixels, tokens = inputs(source)
    with torch.no_grad():
        assert_same(model.encode_image(crops), twin.encode_image(pixels))
        assert_same(model.encode_text(tokens), twin.encode_text(tokens))
    assert source.logit_scale == twin.logit_scale.item()
    assert source.logit_bias == (None if twin.logit_bias is None else twin.logit_bias.item())


@pytest.mark.parametrize("vision", ["exact", "tanh"])
@pytest.mark.parametrize("text", ["exact", "tanh"])
def test_both_kinds_of_gelu(tmp_path, vision, text):
    cfg = changed(MODEL_CFG, "vision_cfg.timm_model_name", TOWER + ("_tanh" if vision == "tanh" else ""))
    cfg = changed(cfg, "text_cfg.act_kwargs", {"approximate": "tanh" if text == "tanh" else "none"})
    twin = write_open_clip(tmp_path, cfg)
    assert_same_features(tmp_path, twin)
    source = read(tmp_path)
    assert (source.model.vision.gelu, source.model.text.gelu) == (vision, text)
    assert (source.mean, source.std) == ((0.4, 0.5, 0.6), (0.5, 0.6, 0.7))


@pytest.mark.parametrize("field", ["init_logit_bias", "custom_text"])
def test_other_classes_of_open_clip(tmp_path, field):
    """Without a bias; and its class CLIP, with the text tower's tensors at the top."""
    cfg = changed(MODEL_CFG, field, False if field == "custom_text" else None)
    twin = write_open_clip(tmp_path, cfg)
    assert_same_features(tmp_path, twin)


def gelu(activation: torch.nn.Module) -> str:
    """Which one a module computes, by trying it."""
    x = torch.linspace(-4, 4, 99)
    exact, tanh = (
        torch.equal(activation(x), torch.nn.functional.gelu(x, approximate=kind)) for kind in ("none", "tanh")
    )
    assert exact != tanh
    return "exact" if exact else "tanh"


@pytest.mark.parametrize("name", SIGLIP)
def test_every_siglip_model_of_open_clip_is_known(name):
    """Shapes, heads and GELU, against the model that open_clip builds of the name."""
    found = describe(MODELS / f"{name}.json")
    with torch.device("meta"):
        twin = open_clip.create_model(name, load_weights=False, device="meta")
    theirs = {key: value.shape for key, value in twin.state_dict().items() if not key.startswith("logit_")}
    assert shapes_of(found.model, with_head=False) == theirs
    vision, text = found.model.vision, found.model.text
    trunk, block = twin.visual.trunk, twin.text.transformer.resblocks[0]
    assert trunk.blocks[0].attn.num_heads == trunk.attn_pool.num_heads == vision.heads
    assert block.attn.num_heads == text.heads
    assert gelu(trunk.blocks[0].mlp.act) == gelu(trunk.attn_pool.mlp.act) == vision.gelu
    assert gelu(block.mlp.gelu) == text.gelu
    assert found.sigmoid
    assert found.tokenizer == json.loads((MODELS / f"{name}.json").read_text())["text_cfg"]["hf_tokenizer_name"]
    assert found.tokenizer_clean == "canonicalize"
    assert bool(found.assumed) == name.endswith("-14-SigLIP-384")


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16-quickgelu", "coca_ViT-B-32", "nllb-clip-base-siglip", "RN50"])
def test_other_models_of_open_clip_are_refused(name):
    with pytest.raises(ValueError, match="another architecture") as refused:
        describe(MODELS / f"{name}.json")
    said = str(refused.value)
    assert "vision_cfg has no timm_model_name: a tower of CLIP's shape" in said or "text_cfg.hf_model_name is " in said
    if name == "ViT-B-32":
        for difference in (
            "text_cfg.no_causal_mask is False, here True",
            "text_cfg.pool_type is 'argmax', here 'last'",
            "text_cfg.proj_bias is False, here True",
            "text_cfg.norm_kwargs.eps is 1e-05, here 1e-06",
        ):
            assert difference in said


def test_the_one_without_text_projection_is_refused():
    with pytest.raises(ValueError, match=r"text_cfg.proj_type is 'none', here 'linear'"):
        describe(MODELS / f"{WITHOUT_PROJECTION}.json")


OTHER = {
    "model_cfg.vision_cfg": None,
    "model_cfg.embed_dim": 65,
    "model_cfg.quick_gelu": True,
    "model_cfg.multimodal_cfg": {},
    "model_cfg.vision_cfg.timm_model_name": "vit_tiny_patch16_224",
    "model_cfg.vision_cfg.timm_pool": "avg",
    "model_cfg.vision_cfg.timm_proj": "linear",
    "model_cfg.vision_cfg.image_size": 56,
    "model_cfg.text_cfg.width": "wide",
    "model_cfg.text_cfg.layers": 10**9,
    "model_cfg.text_cfg.no_causal_mask": False,
    "model_cfg.text_cfg.pool_type": "first",
    "model_cfg.text_cfg.proj_bias": None,
    "model_cfg.text_cfg.proj_type": "none",
    "model_cfg.text_cfg.norm_kwargs.eps": 1e-5,
    "model_cfg.text_cfg.norm_kwargs": None,
    "model_cfg.text_cfg.act_kwargs": {"approximate": "sigmoid"},
    "model_cfg.text_cfg.ls_init_value": 1e-5,
    "model_cfg.text_cfg.embed_cls": True,
    "model_cfg.text_cfg.qk_norm": True,
    "model_cfg.text_cfg.block_type": "custom",
    "model_cfg.text_cfg.hf_model_name": "bert-base-uncased",
    "model_cfg.text_cfg.tokenizer_mode": "clips",
    "model_cfg.text_cfg.tokenizer_kwargs": {"language": "fr"},
    "model_cfg.text_cfg.made_up": 1,
    "preprocess_cfg.mean": [0.5, 0.5],
    "preprocess_cfg.std": [0.5, 0.5, 0.0],
    "preprocess_cfg.resize_mode": "shortest",
    "preprocess_cfg.interpolation": "bilinear",
    "preprocess_cfg": None,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("open_clip")
    write_open_clip(folder)
    return folder


def copied(folder: Path, to: Path, field: str, value: object) -> Path:
    """The folder, with one field of its description replaced."""
    to.mkdir(exist_ok=True)
    (to / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes())
    (to / CONFIG).write_text(json.dumps(changed(json.loads((folder / CONFIG).read_text()), field, value)))
    return to


@pytest.mark.parametrize("field", OTHER)
def test_a_field_that_asks_for_another_model_is_named(folder, tmp_path, field):
    with pytest.raises(ValueError, match=CONFIG) as refused:
        read(copied(folder, tmp_path, field, OTHER[field]))
    assert field.rpartition(".")[2].replace("preprocess_cfg", "resize_mode") in str(refused.value).replace(
        "depth", "layers"
    )
    assert "\n" not in str(refused.value)


SAME = {
    "model_cfg.init_logit_scale": 3.0,
    "model_cfg.vision_cfg.timm_drop_path": 0.1,
    "model_cfg.vision_cfg.patch_dropout": 0.5,
    "model_cfg.vision_cfg.layers": 99,
    "model_cfg.vision_cfg.timm_model_pretrained": True,
    "model_cfg.vision_cfg.image_size": [48, 48],
    "model_cfg.text_cfg.eos_id": 7,
    "model_cfg.text_cfg.mlp_ratio": 4.0,
    "model_cfg.text_cfg.act_kwargs": {},
    "model_cfg.text_cfg.hf_tokenizer_name": "",
    "preprocess_cfg.fill_color": 3,
    "preprocess_cfg.size": 224,
}


@pytest.mark.parametrize("field", SAME)
def test_a_field_without_influence_is_accepted(folder, tmp_path, field):
    source = read(copied(folder, tmp_path, field, SAME[field]))
    assert source.model == read(folder).model
    twin = open_clip.create_model(f"local-dir:{tmp_path}", load_weights=True).eval()
    assert_same_features(tmp_path, twin)


def test_every_field_of_open_clips_classes_is_decided():
    for theirs, here in (
        (open_clip.model.CLIPVisionCfg, described._Vision),
        (open_clip.model.CLIPTextCfg, described._Text),
    ):
        assert {field.name for field in fields(theirs)} == set(here.model_fields)
        for field in fields(theirs):  # where they leave one out, it is their default that counts
            declared = here.model_fields[field.name]
            if declared.annotation is not Any and not declared.is_required():
                assert (declared.default or None) == (field.default or None), field.name


def test_the_tokenizer_is_the_folder_or_the_hubs(folder, tmp_path):
    assert read(folder).tokenizer == "open_clip_bpe"
    named = copied(folder, tmp_path / "named", "model_cfg.text_cfg.hf_tokenizer_name", "timm/ViT-B-16-SigLIP")
    assert (read(named).tokenizer, read(named).tokenizer_clean) == ("timm/ViT-B-16-SigLIP", "whitespace")
    (named / "tokenizer.json").write_text("{}")
    assert read(named).tokenizer == str(named)
    for path in ("/etc/passwd", "../../up", "a/../b", ".."):
        elsewhere = copied(folder, tmp_path / "path", "model_cfg.text_cfg.hf_tokenizer_name", path)
        assert read(elsewhere).tokenizer is None


def test_there_and_back_again(folder, tmp_path):
    """open_clip -> here -> open_clip."""
    source = read(folder)
    scale = LogitScale("sigmoid")
    with torch.no_grad():
        scale.logit_scale.fill_(source.logit_scale)
        scale.logit_bias.fill_(source.logit_bias)
    export(source.weights, scale, source.config(), tmp_path)
    before, after = load_file(folder / WEIGHTS), load_file(tmp_path / WEIGHTS)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert_same_features(folder, open_clip.create_model(f"local-dir:{tmp_path}", load_weights=True).eval())
    assert read(tmp_path).config() == source.config()


def test_an_export_of_an_earlier_version_comes_back(config, model, tmp_path):
    """Its tower's name is the path of the folder where it was written; only what lies beside it counts."""
    export(model.state_dict(), LogitScale("softmax"), config, tmp_path)
    described = changed(
        json.loads((tmp_path / CONFIG).read_text()), "model_cfg.vision_cfg.timm_model_name", "local-dir:/x"
    )
    (tmp_path / CONFIG).write_text(json.dumps(described))
    assert vars(read(tmp_path).model.vision) == vars(config.model.vision)
    (tmp_path / "vision" / "config.json").unlink()
    (tmp_path / "vision" / "config.json").symlink_to("/etc/passwd")
    with pytest.raises(ValueError, match="a link out of its folder"):
        read(tmp_path)


def test_an_export_loads_as_a_configuration_and_weights(config, model, tmp_path):
    config.data.mean = (0.4, 0.5, 0.6)
    export(model.state_dict(), LogitScale("sigmoid"), config, tmp_path)
    source = read(tmp_path)
    found, weights = source.config(), source.weights
    assert isinstance(found, Config)
    assert (found.data.mean, found.objective.contrastive) == ((0.4, 0.5, 0.6), "sigmoid")
    scale = LogitScale("sigmoid")
    assert (source.logit_scale, source.logit_bias) == (scale.logit_scale.item(), scale.logit_bias.item())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items() if name in weights)


def test_low_precision_is_read_as_fp32(folder, tmp_path):
    copied(folder, tmp_path, "preprocess_cfg.size", 48)
    weights = load_file(folder / WEIGHTS)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        save_file({name: value.to(dtype) for name, value in weights.items()}, tmp_path / WEIGHTS)
        found = read(tmp_path).weights
        assert {value.dtype for value in found.values()} == {torch.float32}
        assert all(torch.equal(found[name], weights[name].to(dtype).float()) for name in found)


WRONG_WEIGHTS = {
    "visual.trunk.cls_token": (torch.zeros(1, 1, 64), "a class token"),
    "visual.trunk.blocks.0.ls1.gamma": (torch.ones(64), "the towers here have no visual.trunk.blocks.0.ls1.gamma"),
    "visual.head.proj.weight": (torch.zeros(64, 64), "a projection of the image features"),
    "visual.trunk.blocks.2.norm1.weight": (
        torch.zeros(64),
        "have 3 blocks visual.trunk.blocks, the description says 2",
    ),
    "visual.trunk.norm.weight": (torch.zeros(65), r"norm.weight has shape \[65\], not \[64\]"),
    "visual.trunk.norm.bias": (torch.zeros(64, dtype=torch.int32), "of type 'I32'; floating point"),
    "text.ln_final.bias": (torch.full((48,), torch.nan), "not finite"),
    "text.ln_final.weight": (None, "no text tower"),
    "text.token_embedding.weight": (None, "text.token_embedding.weight is missing"),
    "logit_scale": (None, "has no logit_scale"),
    "logit_bias": (torch.zeros(2), r"logit_bias has shape \[2\]"),
}


@pytest.mark.parametrize("name", WRONG_WEIGHTS)
def test_weights_that_do_not_fit_the_description_are_refused(folder, tmp_path, name):
    copied(folder, tmp_path, "preprocess_cfg.size", 48)
    weights = load_file(folder / WEIGHTS)
    value, said = WRONG_WEIGHTS[name]
    weights.pop(name, None)
    save_file(weights | ({} if value is None else {name: value}), tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match=said):
        read(tmp_path)


def test_what_belongs_to_no_tower_is_ignored_and_listed(folder, tmp_path):
    copied(folder, tmp_path, "preprocess_cfg.size", 48)
    save_file(load_file(folder / WEIGHTS) | {"optimizer.step": torch.zeros(1, dtype=torch.int64)}, tmp_path / WEIGHTS)
    assert read(tmp_path).ignored == ("optimizer.step",)


def test_a_bias_that_the_weights_lack_is_zero(folder, tmp_path):
    """As in open_clip, which fills it in."""
    copied(folder, tmp_path, "preprocess_cfg.size", 48)
    weights = load_file(folder / WEIGHTS)
    del weights["logit_bias"]
    save_file(weights, tmp_path / WEIGHTS)
    assert read(tmp_path).logit_bias == 0
    assert open_clip.create_model(f"local-dir:{tmp_path}", load_weights=True).logit_bias.item() == 0


def test_names_of_timm_mean_the_sizes_they_stand_for():
    for gelu, family in (("exact", _TIMM_NAMES), ("tanh", _TANH_NAMES)):
        for (patch, width, depth, heads, ratio), (stem, images) in family.items():
            for image in images:
                for tag in ("", ".webli", ".v2_webli"):
                    found = named_sizes(f"{stem}_{image}{tag}")
                    assert (found.image_size, found.patch_size, found.width) == (image, patch, width)
                    assert (found.depth, found.heads, found.mlp_ratio, found.gelu) == (depth, heads, ratio, gelu)
                    assert timm_name(found) == f"{stem}_{image}"
    assert named_sizes("vit_tiny_patch16_224") is None
    assert named_sizes("vit_base_patch16_siglip_gap_256") is None
    assert named_sizes("vit_so400m_patch14_siglip_384").image_size == 378
    assert is_cut("vit_so400m_patch14_siglip_384.webli")


def test_pickles_alone_are_refused_with_a_way_that_works(folder, tmp_path):
    twin = write_open_clip(tmp_path / "there")
    (tmp_path / "there" / WEIGHTS).unlink()
    torch.save(twin.state_dict(), tmp_path / "there" / "open_clip_pytorch_model.bin")
    with pytest.raises(ValueError, match="may run code") as refused:
        read(tmp_path / "there")
    code = str(refused.value).partition("python -c ")[2]
    assert code
    subprocess.run([sys.executable, "-c", *shlex.split(code)], check=True)
    assert_same_features(tmp_path / "there", twin)
    with pytest.raises(ValueError, match="may run code"):
        read(tmp_path / "there" / "open_clip_pytorch_model.bin")


def test_which_file_of_weights(folder, tmp_path):
    copied(folder, tmp_path, "preprocess_cfg.size", 48)
    (tmp_path / WEIGHTS).rename(tmp_path / "mine.safetensors")
    read(tmp_path)
    (tmp_path / "other.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"several files of weights \(mine.safetensors, other.safetensors\)"):
        read(tmp_path)
    (tmp_path / "mine.safetensors").rename(tmp_path / "open_clip_pytorch_model.safetensors")
    read(tmp_path)
    for path in tmp_path.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(ValueError, match="but no open_clip_model"):
        read(tmp_path)
    assert is_readable(tmp_path)


def test_a_named_tower_of_full_size_comes_back(tmp_path):
    """ViT-B/16 at 256 px, as open_clip makes it."""
    model = open_clip.create_model("ViT-B-16-SigLIP-256").eval()
    described = {
        "model_cfg": open_clip.get_model_config("ViT-B-16-SigLIP-256"),
        "preprocess_cfg": {"resize_mode": "squash"},
    }
    (tmp_path / CONFIG).write_text(json.dumps(described))
    save_file(model.state_dict(), tmp_path / WEIGHTS)
    source = read(tmp_path)
    crops, pixels, tokens = inputs(source, 1)
    silc = ours(source)
    with torch.no_grad():
        assert_same(silc.encode_image(crops), model.encode_image(pixels))
        assert_same(silc.encode_text(tokens), model.encode_text(tokens))
