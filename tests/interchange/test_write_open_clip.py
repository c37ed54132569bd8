"""Export: open_clip loads the folder and computes what the student computes."""

import json
import math
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import timm
import torch
from PIL import Image

from silc.config import Config, ModelConfig, ObjectiveConfig, VisionConfig
from silc.interchange.source import Source
from silc.interchange.timm_names import _TIMM_NAMES, timm_name
from silc.interchange.write import open_clip as open_clip_format
from silc.interchange.write.common import towers
from silc.interchange.write.open_clip import loading_call
from silc.model import LogitScale, SilcModel, build
from silc.model.timm_tower import tower_name, tower_sizes
from tests.interchange.sources import as_source, export, varied
from tests.model.conftest import as_float, tiny_config


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


def test_preprocessing_is_described(tmp_path):
    config = tiny_config()
    config.data.mean = (0.4, 0.5, 0.6)
    export(build(config).state_dict(), LogitScale("softmax"), config, tmp_path)
    described = json.loads((tmp_path / "open_clip_config.json").read_text())
    assert described["preprocess_cfg"]["mean"] == [0.4, 0.5, 0.6]
    assert described["preprocess_cfg"]["size"] == 64


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_gelu_by_tanh_round_trips(tmp_path, tower):
    """In one tower, the other's is exact."""
    config = tiny_config()
    getattr(config.model, tower).gelu = "tanh"
    source = varied(config)
    open_clip_format.write(source, tmp_path)
    model = towers(source)
    assert_same_embeddings(model, open_clip.create_model(f"local-dir:{tmp_path}").eval(), config)
    source.model.vision.gelu = source.model.text.gelu = "exact"
    with pytest.raises(AssertionError):
        assert_same_embeddings(towers(source), open_clip.create_model(f"local-dir:{tmp_path}").eval(), config)


def with_heads(heads: int, folder: Path) -> tuple[SilcModel, Config]:
    """An exported model of a size that timm has no name for; the number of heads leaves no trace in the weights."""
    config = tiny_config()
    config.model.vision.heads = heads
    model = build(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)  # or attention is even, whatever the heads
    export(model.state_dict(), LogitScale("softmax"), config, folder)
    return model, config


def test_a_folder_loads_from_wherever_it_lies(tmp_path, pixels):
    """The original gone, or another model of equal shapes in its place: the copy's features are its own, to the bit."""
    place, copy = tmp_path / "best", tmp_path / "elsewhere" / "copy"
    crops = as_float(pixels(2, 3, 64, 64))

    def features(folder: Path) -> torch.Tensor:
        with torch.no_grad():
            return open_clip.create_model(f"local-dir:{folder}").eval().encode_image(crops)

    model, config = with_heads(4, place)
    before = features(place)
    shutil.copytree(place, copy)
    with_heads(2, place)
    assert not torch.allclose(features(place), before, atol=1e-3)
    assert torch.equal(features(copy), before)
    shutil.rmtree(place)
    assert torch.equal(features(copy), before)
    assert_same_embeddings(model, open_clip.create_model(f"local-dir:{copy}").eval(), config)


def test_nothing_in_a_folder_names_a_place(tmp_path):
    torch.manual_seed(11)
    with_heads(4, tmp_path / "first")
    torch.manual_seed(11)
    with_heads(4, tmp_path / "second")
    for file in ("open_clip_config.json", "vision/config.json", "open_clip_model.safetensors"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_without_this_package_the_tower_is_refused_or_named_by_its_folder(tmp_path):
    """In a process of its own: open_clip alone ends with a message; given the tower's folder it loads."""
    model, _ = with_heads(4, tmp_path / "first")
    (tmp_path / "first").rename(tmp_path / "moved")
    code = """
import json, sys, open_clip, torch
folder = sys.argv[1]
try:
    open_clip.create_model(f"local-dir:{folder}")
except RuntimeError as error:
    print(error)
vision = json.load(open(f"{folder}/open_clip_config.json"))["model_cfg"]["vision_cfg"]
vision["timm_model_name"] = f"local-dir:{folder}/vision"
model = open_clip.create_model(f"local-dir:{folder}", vision_cfg=vision).eval()
assert not any(name.startswith("silc") for name in sys.modules)
torch.save(model.encode_image(torch.load(f"{folder}/../pixels.pt")).detach(), f"{folder}/../features.pt")
"""
    crops = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    torch.save(as_float(crops), tmp_path / "pixels.pt")
    said = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "moved")], check=True, capture_output=True, text=True, cwd="/"
    )
    assert said.stdout == "Unknown model (silc_vit)\n"
    with torch.no_grad():
        torch.testing.assert_close(
            model.encode_image(crops), torch.load(tmp_path / "features.pt"), atol=1e-5, rtol=1e-5
        )


def described(config: Config) -> Source:
    return as_source({}, LogitScale("softmax"), config)


def test_the_message_says_what_loads_the_folder(tmp_path):
    config = tiny_config()
    call = f"model, _, preprocess = open_clip.create_model_and_transforms('local-dir:{tmp_path}')"
    assert loading_call(described(config), tmp_path) == f"import open_clip, silc.model.timm_tower; {call}"
    config.model.vision = VisionConfig()
    assert loading_call(described(config), tmp_path) == f"import open_clip; {call}"


def test_the_message_can_be_pasted(tmp_path):
    config = tiny_config()
    export(SilcModel.of(config, with_head=False).state_dict(), LogitScale.of(config.objective), config, tmp_path)
    found: dict = {}
    exec(loading_call(described(config), tmp_path), found)
    size = config.model.vision.image_size
    assert found["model"].encode_image(found["preprocess"](Image.new("RGB", (9, 7)))[None]).shape[0] == 1
    assert found["preprocess"](Image.new("RGB", (9, 7))).shape == (3, size, size)


@pytest.mark.parametrize("tag", ["", "image48", "image0_patch8_width128_depth4_heads4_mlp512"])
def test_a_name_without_sizes_is_refused(tag):
    with pytest.raises(ValueError, match=r"write sizes, as in silc_vit\.image256_patch16_width768_depth12_heads12_mlp"):
        timm.create_model(f"silc_vit.{tag}")


def test_names_and_sizes_are_one_to_one():
    sizes = VisionConfig(image_size=378, patch_size=14, width=1152, depth=27, heads=16, mlp_ratio=3.7362)
    name = tower_name(sizes)
    assert name == "silc_vit.image378_patch14_width1152_depth27_heads16_mlp4304"
    again = tower_sizes(name)
    assert tower_name(again) == name
    assert vars(again) == vars(sizes) | {"mlp_ratio": pytest.approx(3.7362, abs=1e-3)}
    assert tower_sizes("vit_base_patch16_siglip_256") is None


@pytest.mark.parametrize("umask", [0o022, 0o027], ids=["022", "027"])
def test_files_have_the_permissions_of_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        with_heads(4, tmp_path)
    finally:
        os.umask(before)
    modes = {str(p.relative_to(tmp_path)): stat.S_IMODE(p.stat().st_mode) for p in tmp_path.rglob("*") if p.is_file()}
    names = ("open_clip_config.json", "open_clip_model.safetensors", "vision/config.json")
    assert modes == dict.fromkeys(names, 0o666 & ~umask)


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
