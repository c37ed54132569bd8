"""Files of open_clip's weights alone: sizes from shapes, and what they cannot say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from silc.config import ModelConfig, TextConfig, VisionConfig
from silc.interchange.read import is_readable, read
from silc.interchange.read.described import describe
from silc.interchange.read.from_shapes import from_shapes
from silc.interchange.read.open_clip import CONFIG, WEIGHTS
from silc.interchange.shapes import hidden_width, shapes_of
from silc.interchange.tensors import Stored
from tests.interchange.foreign import MODEL_CFG, assert_same, changed, inputs, ours, write_open_clip


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, torch.nn.Module]:
    folder = tmp_path_factory.mktemp("folder")
    twin = write_open_clip(folder, changed(MODEL_CFG, "text_cfg.act_kwargs", {"approximate": "tanh"}))
    return folder, twin


@pytest.fixture
def bare(made, tmp_path) -> Path:
    path = tmp_path / "mine.safetensors"
    path.write_bytes((made[0] / WEIGHTS).read_bytes())
    return path


def sizes(**text: object) -> ModelConfig:
    """Of a configuration whose widths are the file's; other sizes of it have no influence."""
    return ModelConfig(
        vision=VisionConfig(width=64, heads=2, depth=1, image_size=256), text=TextConfig(width=48, heads=3, **text)
    )


def test_sizes_are_those_of_the_tensors(made, bare):
    found, said = read(bare, sizes=sizes(gelu="tanh")), read(made[0])
    for tower in ("vision", "text"):
        mine, theirs = vars(getattr(found.model, tower)).copy(), vars(getattr(said.model, tower)).copy()
        width = mine["width"]
        assert hidden_width(width, mine.pop("mlp_ratio")) == hidden_width(width, theirs.pop("mlp_ratio"))
        assert mine == theirs
    assert found.assumed.keys() == {f"model.{tower}.{key}" for tower in ("vision", "text") for key in ("heads", "gelu")}
    assert "as configured" in found.assumed["model.text.gelu"]
    assert (found.mean, found.std, found.tokenizer) == (None, None, None)
    assert (found.logit_scale, found.logit_bias) == (said.logit_scale, said.logit_bias)


def test_heads_and_gelu_are_the_configurations_where_widths_agree(made, bare):
    """So that the features are the model's own."""
    source = read(bare, sizes=sizes(gelu="tanh"))
    model, twin = ours(source), made[1]
    crops, pixels, tokens = inputs(source)
    with torch.no_grad():
        assert_same(model.encode_image(crops), twin.encode_image(pixels))
        assert_same(model.encode_text(tokens), twin.encode_text(tokens))
        other = ours(read(bare, sizes=sizes(gelu="exact"))).encode_text(tokens)
    assert not torch.allclose(other, twin.encode_text(tokens), atol=1e-5)


@pytest.mark.parametrize("given", [None, ModelConfig()])
def test_else_they_are_the_usual_ones(bare, given):
    found = read(bare, sizes=given)
    assert (found.model.vision.heads, found.model.text.heads) == (1, 1)
    assert (found.model.vision.gelu, found.model.text.gelu) == ("exact", "exact")
    assert found.assumed["model.vision.heads"].startswith("1, at 64 numbers a head, ")
    assert found.assumed["model.text.gelu"].startswith("exact, as open_clip's towers have it")


@pytest.mark.parametrize(("width", "heads"), [(768, 12), (1024, 16), (1152, 16), (1536, 16)])
def test_usual_heads(bare, width, heads):
    weights = load_file(bare)
    shapes = {"visual.trunk.attn_pool.latent": (1, 1, width), "text.text_projection.weight": (width, 48)}
    for name, value in weights.items():
        if name.startswith("visual."):  # as wide as wanted, and not one number of it
            shapes[name] = tuple({64: width, 192: 3 * width, 128: 2 * width}.get(side, side) for side in value.shape)
    shapes["text.text_projection.bias"] = (width,)
    wide = {name: value if name not in shapes else torch.zeros(shapes[name]) for name, value in weights.items()}
    save_file(wide, bare)
    assert read(bare).model.vision.heads == heads


SIGLIP = [name for name in open_clip.list_models() if "SigLIP" in name and "i18n" not in name]


@pytest.mark.parametrize("name", SIGLIP)
def test_sizes_and_gelu_of_every_siglip(name, tmp_path):
    """From the shapes of its tensors, those that open_clip describes."""
    (tmp_path / "model.json").write_text(json.dumps(open_clip.get_model_config(name)))
    wanted = describe(tmp_path / "model.json").model
    stored = {
        name: Stored(tuple(shape), "F32", torch.Tensor) for name, shape in shapes_of(wanted, with_head=False).items()
    }
    found = from_shapes(tmp_path, stored, None)
    for tower in ("vision", "text"):
        mine, theirs = getattr(found.model, tower), getattr(wanted, tower)
        assert (mine.gelu, mine.heads, mine.depth) == (theirs.gelu, theirs.heads, theirs.depth), found.assumed
    plain = ModelConfig(vision=wanted.vision, text=replace(wanted.text, gelu="exact"))
    configured = from_shapes(tmp_path, stored, plain)
    differs = wanted.text.gelu == "tanh"
    assert ("though tanh would be as SigLIP 2 has it" in configured.assumed["model.text.gelu"]) == differs


@pytest.mark.parametrize("beside", ["mine.json", CONFIG])
@pytest.mark.parametrize("whole", [True, False])
def test_a_description_beside_counts(made, bare, beside, whole):
    """A folder's, or one as in open_clip's model_configs, without preprocessing."""
    tree = json.loads((made[0] / CONFIG).read_text())
    (bare.parent / beside).write_text(json.dumps(tree if whole else tree["model_cfg"]))
    found = read(bare)
    assert (found.model, found.assumed) == (read(made[0]).model, {})
    assert found.mean == ((0.4, 0.5, 0.6) if whole else None)


def test_other_json_beside_does_not(bare):
    (bare.parent / "mine.json").write_text('{"epoch": 3}')
    assert read(bare).assumed


def test_names_of_a_model_of_several_ranks(bare):
    weights = load_file(bare)
    save_file({f"module.{name}": value for name, value in weights.items()}, bare)
    assert torch.equal(read(bare).weights["text.ln_final.bias"], weights["text.ln_final.bias"])


def test_what_is_no_such_model_is_refused(bare):
    weights = load_file(bare)
    cases = {
        "has the names of Hugging Face; give its folder": {"vision_model.head.probe": torch.zeros(1)},
        "no pooling by attention, no text tower": {"visual.trunk.norm.weight": torch.zeros(3)},
        "a class token, CLIP's own ViT, a projection of the image features": {
            "visual.class_embedding": torch.zeros(4),
            "visual.conv1.weight": torch.zeros(4, 3, 2, 2),
            "visual.proj": torch.zeros(4, 4),
        },
        "is for 1 channels": weights | {"visual.trunk.patch_embed.proj.weight": torch.zeros(64, 1, 8, 8)},
        "35 positions of patches are no square": weights | {"visual.trunk.pos_embed": torch.zeros(1, 35, 64)},
        r"not \[2, 36, 64\]|has shape \[2, 36, 64\]": weights | {"visual.trunk.pos_embed": torch.zeros(2, 36, 64)},
        r"shape \[36, 64\] where there are 3 dimensions": weights | {"visual.trunk.pos_embed": torch.zeros(36, 64)},
        "token_embedding.weight is missing": {n: v for n, v in weights.items() if n != "text.token_embedding.weight"},
        r"shape \[0, 48\]": weights | {"text.token_embedding.weight": torch.zeros(0, 48)},
        "width is 70000": weights | {"visual.trunk.patch_embed.proj.weight": torch.zeros(70000, 3, 8, 8)},
    }
    for said, state in cases.items():
        save_file(state, bare)
        with pytest.raises(ValueError, match=said):
            read(bare)


def test_paths_that_are_no_model(tmp_path):
    assert not is_readable(tmp_path)
    assert not is_readable(tmp_path / "absent")
    assert not is_readable(tmp_path / ("x" * 5000))
    assert not is_readable(Path("a\0b"))
    (tmp_path / "notes.txt").write_text("hello")
    assert is_readable(tmp_path / "notes.txt")
    for path in (
        tmp_path,
        tmp_path / "absent",
        tmp_path / "notes.txt",
        tmp_path / "absent.safetensors",
        tmp_path / "a.npz",
    ):
        with pytest.raises(ValueError, match=str(path)) as refused:
            read(path)
        assert "\n" not in str(refused.value)


def test_an_export_for_onnxruntime_is_not_read_back(tmp_path):
    (tmp_path / "image.onnx").touch()
    assert is_readable(tmp_path)
    with pytest.raises(ValueError, match=r"an export for onnxruntime, not read back; give the run"):
        read(tmp_path)
