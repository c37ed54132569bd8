"""Every export: copied elsewhere and its origin gone, the code on its card computes what the model computes."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
import transformers
from PIL import Image
from torch import Tensor

import silc
from silc.config_io import load_config
from silc.data import build_tokenizer
from silc.data.views.crops import resize_into
from silc.interchange.read import read
from silc.interchange.source import Source
from silc.interchange.write import onnx
from silc.interchange.write.common import towers
from silc.interchange.write.export import export
from silc.interchange.write.formats import FORMATS, Format, writer
from silc.train.card import card
from tests.data.small_tokenizers import make_bpe_tokenizer
from tests.interchange.sources import varied
from tests.test_pretrained import make_config
from tools.run_blocks import blocks

TEXTS = ["a cat", "a boat"]  # of the cards
CAPTIONS = [*TEXTS, "Two RED dogs, it's 1950!", "words " * 40]
CARD = {"README.md", "SHA256SUMS"}
FILES = {
    "open_clip": {"open_clip_config.json", "open_clip_model.safetensors", "vision/config.json"},
    "hf": {"config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"},
    "timm": {"config.json", "model.safetensors"},
    "onnx": {"image.onnx", "text.onnx", "metadata.json", "tokenizer.json"},
}


def sample_source(kind: str, gelu: str, tokenizer: str = "open_clip_bpe") -> Source:
    """The sample preset's sizes."""
    config = load_config("sample", [])
    config.model.vision.gelu = config.model.text.gelu = gelu
    config.data.mean, config.data.std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    config.data.tokenizer = tokenizer
    source = varied(config, kind)
    return source if kind == "softmax" else replace(source, logit_bias=-0.5)


def write(source: Source, out: Path, to: Format) -> None:
    export(source, out, to, card=lambda found: card(source, to, "student", None, found))


def picture(size: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (size, size, 3), dtype=np.uint8))


def run_card(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that the card's code leaves, run in the folder."""
    monkeypatch.chdir(folder)
    (code,) = blocks((folder / "README.md").read_text(encoding="utf-8"), "python")
    found: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(code, "card", "exec"), found)
    return found


def own(source: Source, image: Image.Image) -> Mapping[str, Tensor]:
    """What this package computes: unit features, probabilities, patches."""
    model, tokens = towers(source), build_tokenizer(source.tokenizer, source.model.text.context_length)(TEXTS)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    with torch.no_grad():
        features, texts = model.encode_image(pixels, normalize=True), model.encode_text(tokens, normalize=True)
        logits = np.exp(source.logit_scale) * features @ texts.T
        bias = source.logit_bias
        probabilities = logits.softmax(-1) if bias is None else (logits + bias).sigmoid()
        patches = model.encode_image(pixels, dense=True).flatten(1, 2)
    return {"image": features, "probabilities": probabilities, "patches": patches}


def same(found: Any, wanted: Tensor) -> None:
    torch.testing.assert_close(torch.as_tensor(found).float(), wanted, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Callable[[Format, str], tuple[Source, Path]]:
    """An export of a small model, each made once: a copy elsewhere; the first folder and the tokenizer's are gone.

    Of a model trained with the softmax loss, with exact GELU and CLIP's tokenizer; or with the sigmoid loss, GELU by
    tanh and a tokenizer of files.
    """
    made: dict[tuple[Format, str], tuple[Source, Path]] = {}

    def get(to: Format, kind: str) -> tuple[Source, Path]:
        if (to, kind) not in made:
            place = tmp_path_factory.mktemp(f"{to}-{kind}")
            plain = kind == "softmax"
            tokenizer = "open_clip_bpe" if plain else str(make_bpe_tokenizer(place / "tokenizer"))
            source = sample_source(kind, "exact" if plain else "tanh", tokenizer)
            write(source, place / "out", to)
            copy = place / "another place" / "copy"
            shutil.copytree(place / "out", copy)
            shutil.rmtree(place / "out")
            if not plain:
                (place / "tokenizer").rename(place / "another place" / "tokenizer")
                source = replace(source, tokenizer=str(place / "another place" / "tokenizer"))
            made[to, kind] = source, copy
        return made[to, kind]

    return get


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("to", FORMATS)
def test_the_card_says_how_to_load_it(exported, to, kind, tmp_path, monkeypatch):
    source, kept = exported(to, kind)
    folder, image = shutil.copytree(kept, tmp_path / "copy"), picture(48)
    image.save(folder / "image.jpg", "PNG")
    found, wanted = run_card(folder, monkeypatch), own(source, image)
    assert wanted["image"].std() > 0.05
    if to == "timm":
        same(F.normalize(found["features"], dim=-1), wanted["image"])
        same(found["patches"], wanted["patches"])
        return
    same(found["probabilities"], wanted["probabilities"])
    assert 1e-3 < wanted["probabilities"].min() < 0.499
    if to != "hf":
        same(found["image" if to == "open_clip" else "image_features"], wanted["image"])


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("to", FORMATS)
def test_what_a_folder_holds(exported, to, kind):
    """Nothing in it names a place, and SHA256SUMS is what sha256sum reads."""
    _, folder = exported(to, kind)
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    if to == "open_clip" and kind == "sigmoid":
        assert found == FILES[to] | CARD | {"tokenizer.json", "tokenizer_config.json"}
    else:
        assert found == FILES[to] | CARD
    for path in found:
        for place in ("/tmp/", str(folder.parents[1]), sys.prefix, str(Path(silc.__file__).parent)):
            assert place.encode() not in (folder / path).read_bytes(), path
    checked = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, text=True, check=True)
    assert len(checked.stdout.splitlines()) == len(found) - 1


@pytest.mark.parametrize("to", FORMATS)
def test_images_of_other_sizes_are_nearly_the_same(exported, to):
    """transformers resizes with the same arithmetic, the others with PIL's: few pixels differ, by one level."""
    source, folder = exported(to, "softmax")
    noise = np.random.default_rng(4).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((640, 427), Image.Resampling.BICUBIC)
    pixels = torch.empty(1, 3, 48, 48, dtype=torch.uint8)
    resize_into(pixels[0], torch.from_numpy(np.array(image)))
    with torch.no_grad():
        wanted, found = towers(source).encode_image(pixels, normalize=True), writer(to).reload(folder).images([image])
    if to == "hf":
        same(found, wanted)
    assert (1 - (found * wanted).sum()).item() < 1e-5
    by_pil = torch.from_numpy(np.array(image.resize((48, 48), Image.Resampling.BICUBIC))).permute(2, 0, 1)
    apart = (by_pil.int() - pixels[0].int()).abs()
    assert apart.max() <= 1
    assert (apart > 0).float().mean() < 0.01


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("to", ["open_clip", "hf"])
def test_what_was_written_is_read_here_again(exported, to, kind):
    """Weights, sizes, kind of loss, pixels and tokens."""
    source, folder = exported(to, kind)
    again = read(folder)
    for tower in ("vision", "text"):
        sizes, wanted = (asdict(getattr(one.model, tower)) for one in (again, source))
        hidden, needed = (int(one.pop("mlp_ratio") * one["width"]) for one in (sizes, wanted))
        assert (sizes, hidden) == (wanted, needed)
    assert (again.mean, again.std) == (source.mean, source.std)
    assert again.logit_scale == pytest.approx(source.logit_scale, rel=1e-6)
    assert again.logit_bias == source.logit_bias
    assert again.weights.keys() == source.weights.keys()
    for name, value in again.weights.items():
        assert torch.equal(value, source.weights[name]), name
    tokens = build_tokenizer(again.tokenizer, again.model.text.context_length, again.tokenizer_clean)(CAPTIONS)
    assert torch.equal(tokens, build_tokenizer(source.tokenizer, source.model.text.context_length)(CAPTIONS))
    assert again.assumed == {}


def test_the_graphs_take_any_batch_and_say_what_they_need(exported):
    source, folder = exported("onnx", "softmax")
    session = onnxruntime.InferenceSession(folder / "image.onnx")
    model = towers(source)
    for batch in (1, 3, 17):
        pixels = torch.randn(batch, 3, 48, 48)
        (found,) = session.run(None, {"pixels": pixels.numpy()})
        with torch.no_grad():
            same(found, model.encode_image(pixels, normalize=True))
    about = json.loads((folder / "metadata.json").read_text())
    assert about["opset"] == 18
    assert (about["mean"], about["std"]) == ([0.4, 0.5, 0.6], [0.2, 0.25, 0.3])


def test_each_part_of_the_hugging_face_folder_loads_by_itself(exported):
    _, folder = exported("hf", "sigmoid")
    assert isinstance(transformers.AutoModel.from_pretrained(folder), transformers.SiglipModel)
    vision = transformers.SiglipVisionModel.from_pretrained(folder)
    assert vision.config.hidden_act == "gelu_pytorch_tanh"
    assert transformers.AutoTokenizer.from_pretrained(folder).model_max_length == 20
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    assert processor(Image.new("RGB", (70, 30)), return_tensors="pt")["pixel_values"].shape == (1, 3, 48, 48)
    found, report = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert found.config.contrastive_loss == "sigmoid"


def test_weights_beyond_the_limit_of_a_graph_lie_beside_it(tmp_path, monkeypatch):
    """And go with it."""
    monkeypatch.setattr(onnx, "LARGEST", 100_000)
    source = varied(make_config())
    write(source, tmp_path / "first", "onnx")
    names = {path.name for path in (tmp_path / "first").iterdir()}
    assert names == FILES["onnx"] | CARD | {"image.onnx.data", "text.onnx.data"}
    assert (tmp_path / "first" / "text.onnx").stat().st_size < 100_000
    (tmp_path / "first").rename(tmp_path / "second")
    pixels = torch.randn(1, 3, 24, 24)
    session = onnxruntime.InferenceSession(tmp_path / "second" / "image.onnx")
    with torch.no_grad():
        same(session.run(None, {"pixels": pixels.numpy()})[0], towers(source).encode_image(pixels, normalize=True))
