"""Folders of transformers' SiglipModel compute here what they compute there, or are refused with every difference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPConfig,
    CLIPModel,
    Siglip2Config,
    Siglip2Model,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from silc.interchange.read import is_readable, read
from silc.interchange.read.hugging_face import CONFIG, INDEX, WEIGHTS
from silc.interchange.shapes import hidden_width
from tests.interchange.foreign import assert_same, changed, inputs, ours, shaken

VISION: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 150,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 48,
    "patch_size": 8,
}
TEXT: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 100,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "vocab_size": 90,
    "max_position_embeddings": 12,
    "projection_size": 64,
    "bos_token_id": 1,
    "eos_token_id": 1,
}


def write(folder: Path, vision: dict[str, Any] = VISION, text: dict[str, Any] = TEXT, **saving: object) -> SiglipModel:
    model = shaken(SiglipModel(SiglipConfig(vision_config=vision, text_config=text)))
    model.save_pretrained(folder, **saving)
    return model


def assert_same_features(folder: Path, twin: SiglipModel) -> None:
    source = read(folder)
    model = ours(source)
    crops, pixels, tokens = inputs(source)
    with torch.no_grad():
        assert_same(model.encode_image(crops), twin.get_image_features(pixels).pooler_output)
        assert_same(model.encode_text(tokens), twin.get_text_features(tokens).pooler_output)
        image, text = model.encode_image(crops, normalize=True), model.encode_text(tokens, normalize=True)
        logits = image @ text.t() * torch.tensor(source.logit_scale).exp() + source.logit_bias
        assert_same(logits, twin(tokens, pixels).logits_per_image)


@pytest.mark.parametrize("vision", ["gelu", "gelu_pytorch_tanh"])
@pytest.mark.parametrize("text", ["gelu", "gelu_pytorch_tanh"])
def test_features_and_logits(tmp_path, vision, text):
    twin = write(tmp_path, VISION | {"hidden_act": vision}, TEXT | {"hidden_act": text})
    assert is_readable(tmp_path)
    assert_same_features(tmp_path, twin)
    model = read(tmp_path).model
    kinds = {"gelu": "exact", "gelu_pytorch_tanh": "tanh"}
    assert (model.vision.gelu, model.text.gelu) == (kinds[vision], kinds[text])
    assert hidden_width(64, model.vision.mlp_ratio) == 150
    assert read(tmp_path).resize == "hugging_face"


def test_at_the_size_of_vit_b16_at_256(tmp_path):
    """The number of words has no part in the arithmetic."""
    config = SiglipConfig(vision_config={"image_size": 256}, text_config={"vocab_size": 500})
    twin = SiglipModel(config).eval()
    twin.save_pretrained(tmp_path)
    assert_same_features(tmp_path, twin)
    (tmp_path / WEIGHTS).unlink()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, SiglipModel]:
    folder = tmp_path_factory.mktemp("siglip")
    return folder, write(folder)


def copied(folder: Path, to: Path, field: str = "architectures", value: object = ("SiglipModel",)) -> Path:
    """The folder, with one field of its description replaced."""
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    (to / CONFIG).write_text(json.dumps(changed(json.loads((to / CONFIG).read_text()), field, value)))
    return to


def test_weights_in_parts_and_in_half_precision(made, tmp_path):
    folder, twin = made
    twin.save_pretrained(tmp_path / "parts", max_shard_size="60KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 3
    whole, parts = read(folder).weights, read(tmp_path / "parts").weights
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    copied(folder, tmp_path)
    for dtype in (torch.float16, torch.bfloat16):
        save_file({n: v.to(dtype) for n, v in load_file(folder / WEIGHTS).items()}, tmp_path / WEIGHTS)
        half = read(tmp_path).weights
        assert all(torch.equal(half[name], whole[name].to(dtype).float()) for name in whole)


def test_absent_fields_have_the_defaults_of_transformers(tmp_path):
    """The description of a model of base size may be two lines. Shapes are compared with transformers' own."""
    config = SiglipConfig(
        vision_config={"num_hidden_layers": 1}, text_config={"num_hidden_layers": 1, "vocab_size": 50}
    )
    SiglipModel(config).half().save_pretrained(tmp_path)
    tree = {"model_type": "siglip", "vision_config": {"num_hidden_layers": 1}}
    tree["text_config"] = {"num_hidden_layers": 1, "vocab_size": 50}
    (tmp_path / CONFIG).write_text(json.dumps(tree))
    model = read(tmp_path).model
    assert (model.vision.width, model.vision.heads, model.vision.image_size, model.vision.patch_size) == (
        768,
        12,
        224,
        16,
    )
    assert (model.text.width, model.text.heads, model.text.context_length) == (768, 12, 64)
    assert (model.vision.gelu, model.text.gelu, model.vision.mlp_ratio) == ("tanh", "tanh", 4.0)
    del tree["text_config"]
    (tmp_path / CONFIG).write_text(json.dumps(tree))
    with pytest.raises(ValueError, match=r"\.11\..* is missing|encoder.layers.1.* is missing"):
        read(tmp_path)


def test_pixels_are_those_of_the_processor(made, tmp_path):
    """Through transformers' own preprocessing."""
    folder, twin = made
    copied(folder, tmp_path)
    assert read(tmp_path).mean is None
    processor = SiglipImageProcessor(
        size={"height": 48, "width": 48}, image_mean=[0.4, 0.5, 0.6], image_std=[0.5, 0.6, 0.7]
    )
    processor.save_pretrained(tmp_path)
    source = read(tmp_path)
    assert (source.mean, source.std) == ((0.4, 0.5, 0.6), (0.5, 0.6, 0.7))
    crops, _, _ = inputs(source)
    images = [Image.fromarray(crop.permute(1, 2, 0).numpy()) for crop in crops]
    with torch.no_grad():
        theirs = twin.get_image_features(processor(images, return_tensors="pt").pixel_values).pooler_output
        assert_same(ours(source).encode_image(crops), theirs)
    whole = {"image_processor": json.loads((tmp_path / "preprocessor_config.json").read_text())}
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "processor_config.json").write_text(json.dumps(whole))
    assert read(tmp_path).mean == (0.4, 0.5, 0.6)


def test_bilinear_resizing_is_noted(made, tmp_path):
    copied(made[0], tmp_path)
    SiglipImageProcessor(size={"height": 48, "width": 48}, resample=2).save_pretrained(tmp_path)
    assert "bilinearly" in read(tmp_path).assumed["preprocessing"]


OTHER_PIXELS = {
    "do_resize": False,
    "do_center_crop": True,
    "do_normalize": False,
    "rescale_factor": 1.0,
    "resample": 0,
    "size": {"shortest_edge": 48},
    "size.height": 64,
    "image_std": [0.5, 0.5, 0],
    "image_mean": "grey",
}


@pytest.mark.parametrize("field", OTHER_PIXELS)
def test_other_preprocessing_is_refused(made, tmp_path, field):
    copied(made[0], tmp_path)
    SiglipImageProcessor(size={"height": 48, "width": 48}).save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(changed(json.loads(path.read_text()), field, OTHER_PIXELS[field])))
    with pytest.raises(ValueError, match=rf"other preprocessing than here .*{field.partition('.')[0]}"):
        read(tmp_path)


def test_the_tokenizer_is_the_folder(made, tmp_path):
    assert read(made[0]).tokenizer is None
    copied(made[0], tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert read(tmp_path).tokenizer == str(tmp_path)


OTHER = {
    "vision_config.hidden_act": "quick_gelu",
    "vision_config.layer_norm_eps": 1e-5,
    "vision_config.num_channels": 1,
    "vision_config.vision_use_head": False,
    "vision_config.image_size": [48, 56],
    "vision_config.num_attention_heads": 5,
    "vision_config.num_hidden_layers": 10**12,
    "text_config.hidden_act": "relu",
    "text_config.layer_norm_eps": 0.1,
    "text_config.projection_size": 63,
    "text_config.hidden_size": -1,
    "text_config": 7,
}


@pytest.mark.parametrize("field", OTHER)
def test_other_arithmetic_is_named(made, tmp_path, field):
    with pytest.raises(ValueError, match=str(tmp_path)) as refused:
        read(copied(made[0], tmp_path, field, OTHER[field]))
    said = {"projection_size": "have 63 numbers", "num_attention_heads": "5 heads do not divide a width of 64"}
    last = field.rpartition(".")[2]
    assert said.get(last, last) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_all_differences_are_listed(made, tmp_path):
    copied(made[0], tmp_path, "vision_config.hidden_act", "quick_gelu")
    with pytest.raises(ValueError, match=r"'quick_gelu', here 'gelu' or 'gelu_pytorch_tanh'.*layer_norm_eps is 0.001"):
        read(copied(tmp_path, tmp_path, "text_config.layer_norm_eps", 1e-3))


def test_an_export_of_a_model_without_bias_says_so(made, tmp_path):
    """transformers' SiglipModel always has one."""
    copied(made[0], tmp_path, "contrastive_loss", "softmax")
    assert read(tmp_path).logit_bias is None
    assert read(tmp_path).config().objective.contrastive == "softmax"
    assert read(made[0]).logit_bias is not None


def test_squares_may_be_pairs(made, tmp_path):
    """As transformers takes them."""
    assert read(copied(made[0], tmp_path, "vision_config.image_size", [48, 48])).model == read(made[0]).model


def test_patches_that_leave_an_edge_out(tmp_path):
    """As So400m at 384 px: the same grid, the same features of images without the edge."""
    twin = write(tmp_path, VISION | {"image_size": 53})
    source = read(tmp_path)
    assert source.model.vision.image_size == 48
    assert "leave the edge of 53 px out" in source.assumed["model.vision.image_size"]
    crops, pixels, _ = inputs(source)
    padded = torch.nn.functional.pad(pixels, (0, 5, 0, 5), value=9)
    with torch.no_grad():
        assert_same(ours(source).encode_image(crops), twin.get_image_features(padded).pooler_output)


def test_other_models_of_transformers_are_refused_by_name(tmp_path):
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    text = small | {"vocab_size": 10}
    cases = {
        "'siglip2', SigLIP 2 for images of any proportions": Siglip2Model(
            Siglip2Config(vision_config=small | {"num_patches": 4}, text_config=text)
        ),
        "'clip', CLIP, with a class token": CLIPModel(
            CLIPConfig(vision_config=small | {"image_size": 32, "patch_size": 16}, text_config=text, projection_dim=16)
        ),
        "'siglip_vision_model', an image tower without": SiglipVisionModel(SiglipVisionConfig(**small, image_size=32)),
    }
    for number, (said, model) in enumerate(cases.items()):
        model.save_pretrained(tmp_path / str(number))
        with pytest.raises(ValueError, match=rf"model_type is {said}.*; here 'siglip'"):
            read(tmp_path / str(number))
    (tmp_path / CONFIG).write_text('{"architecture": "vit_base_patch16_siglip_256", "model_args": {}}')
    with pytest.raises(ValueError, match=r"of a model of timm, an image tower alone; give both towers"):
        read(tmp_path)
    (tmp_path / CONFIG).write_text('{"model_type": ["siglip"]}')
    with pytest.raises(ValueError, match=r"model_type is \['siglip'\]; here"):
        read(tmp_path)


def test_weights_that_do_not_fit_are_refused(made, tmp_path):
    copied(made[0], tmp_path)
    weights = load_file(made[0] / WEIGHTS)
    layer = "vision_model.encoder.layers."
    cases: dict[str, dict[str, torch.Tensor | None]] = {
        r"layers\.1\.self_attn\.q_proj\.bias is missing": {f"{layer}1.self_attn.q_proj.bias": None},
        r"have no vision_model\.encoder\.layers\.2\.layer_norm1\.bias": {f"{layer}2.layer_norm1.bias": torch.zeros(64)},
        r"have the shapes \[64, 64\], \[64, 63\]": {f"{layer}0.self_attn.k_proj.weight": torch.zeros(64, 63)},
        r"shape \[191, 64\], not \[192": {"vision_model.head.attention.in_proj_weight": torch.zeros(191, 64)},
        r"latent has shape \[64\]": {"vision_model.head.probe": torch.zeros(64)},
        r"logit_bias has shape \[2\]": {"logit_bias": torch.zeros(2)},
        "logit_scale is 14; it is the logarithm": {"logit_scale": torch.full((1,), 14.0)},
        "logit_scale is missing": {"logit_scale": None},
        r"no tensors of a text tower \(text_model": {n: None for n in weights if n.startswith("text_model.")},
        "not finite": {f"{layer}0.layer_norm1.bias": torch.full((64,), torch.inf)},
    }
    for said, replaced in cases.items():
        state = {name: value for name, value in (weights | replaced).items() if value is not None}
        save_file(state, tmp_path / WEIGHTS)
        with pytest.raises(ValueError, match=said) as refused:
            read(tmp_path)
        assert str(tmp_path) in str(refused.value)
    save_file(weights | {"text_model.embeddings.position_ids": torch.arange(12)}, tmp_path / WEIGHTS)
    assert read(tmp_path).ignored == ("text_model.embeddings.position_ids",)


def test_other_files_of_weights_are_refused(made, tmp_path):
    copied(made[0], tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(ValueError, match=r"but no model\.safetensors"):
        read(tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"may run code .*save_pretrained"):
        read(tmp_path)
    for parts, said in (({"a": "pytorch_model.bin"}, "no .safetensors file"), ({}, "nothing"), ([1], "no weight_map")):
        (tmp_path / INDEX).write_text(json.dumps({"weight_map": parts}))
        with pytest.raises(ValueError, match=said):
            read(tmp_path)


def test_a_bare_file_of_these_names_leads_to_its_folder(made):
    with pytest.raises(ValueError, match="give its folder"):
        read(made[0] / WEIGHTS)
