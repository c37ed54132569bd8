"""What a run's checkpoint says of its model beside the weights, and that it reaches exports and evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from silc import config_io
from silc.commands import evaluate
from silc.config import Config
from silc.data import tokenizer_of
from silc.interchange.read import read
from silc.train import checkpoint
from silc.train.export import write_export
from silc.train.weights import read_weights
from tests.data.small_tokenizers import make_siglip_tokenizer
from tests.test_pretrained import make_config, make_weights, write_manifest, write_run

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """With pixel statistics and a cleaning of texts that are no default."""
    config = make_config("sigmoid")
    config.data.tokenizer_clean = "canonicalize"
    assert (config.data.mean, config.data.std) == (MEAN, STD) != (Config().data.mean, Config().data.std)
    folder = tmp_path_factory.mktemp("runs") / "mine"
    average = {name: value for name, value in make_weights(config, 2).items() if not name.startswith("text.")}
    write_run(folder, config, make_weights(config, 1), average)
    return folder


@pytest.mark.parametrize("model", ["student", "teacher"])
def test_a_runs_source_says_how_pixels_and_texts_are_prepared(run, model):
    found = read_weights(run, model)
    assert (found.mean, found.std) == (MEAN, STD)
    assert (found.tokenizer, found.tokenizer_clean) == ("open_clip_bpe", "canonicalize")


def test_an_export_says_it_too(run, tmp_path):
    write_export(run, tmp_path / "out")
    tree = json.loads((tmp_path / "out" / "open_clip_config.json").read_text())
    assert (tree["preprocess_cfg"]["mean"], tree["preprocess_cfg"]["std"]) == (list(MEAN), list(STD))
    assert tree["model_cfg"]["text_cfg"]["tokenizer_kwargs"] == {"clean": "canonicalize"}
    again = read(tmp_path / "out")
    assert (again.mean, again.std, again.tokenizer_clean) == (MEAN, STD, "canonicalize")
    write_export(run, tmp_path / "hf", to="hf")
    pixels = json.loads((tmp_path / "hf" / "preprocessor_config.json").read_text())
    assert (pixels["image_mean"], pixels["image_std"]) == (list(MEAN), list(STD))


def test_evaluation_takes_data_from_a_preset_but_these(run):
    """They are parts of the model; what a preset says of them is of its own model."""
    for preset in ([], ["--preset", "sample"]):
        config = evaluate.load(evaluate.parse([str(run), *preset]))[0]
        assert (config.data.mean, config.data.std) == (MEAN, STD)
        assert (config.data.tokenizer, config.data.tokenizer_clean) == ("open_clip_bpe", "canonicalize")
        assert tokenizer_of(config).clean == "canonicalize"


def test_weights_are_in_memory_of_their_own(run):
    """Not the checkpoint's file, mapped: locked weights are held as long as a run trains, and the file of another run
    may be replaced in place, or lie on a disk that goes away.
    """
    name, file = "text.ln_final.bias", checkpoint.find(run) / "student.safetensors"
    found = read_weights(run).weights
    before, bytes_before = found[name].clone(), file.read_bytes()
    try:
        with file.open("r+b") as opened:
            opened.seek(8 + int.from_bytes(bytes_before[:8], "little"))
            opened.write(bytes(len(bytes_before) - opened.tell()))
        assert before.any()
        assert (found[name] == before).all()
    finally:
        file.write_bytes(bytes_before)


@pytest.mark.parametrize("named", ["hugging face", "open_clip_bpe"])
def test_a_run_of_a_version_without_the_key_keeps_its_tokens(tmp_path, named):
    """When it is resumed, evaluated or exported: the class of a tokenizer of Hugging Face decided nothing."""
    config = make_config("sigmoid")
    if named != "open_clip_bpe":
        config.data.tokenizer = str(make_siglip_tokenizer(tmp_path / "tokenizer", "SiglipTokenizer"))
    assert tokenizer_of(config).clean == ("lower" if named == "open_clip_bpe" else "canonicalize")
    path = tmp_path / "mine" / "checkpoints" / "step_00000007"
    average = {name: value for name, value in make_weights(config, 2).items() if not name.startswith("text.")}
    write_run(tmp_path / "mine", config, make_weights(config, 1), average)
    tree = yaml.safe_load((path / "config.yaml").read_text())
    del tree["data"]["tokenizer_clean"]
    (path / "config.yaml").write_text(yaml.safe_dump(tree))
    write_manifest(path)
    wanted = "auto" if named == "open_clip_bpe" else "whitespace"
    assert checkpoint.load_config(path).data.tokenizer_clean == wanted
    assert read_weights(path).tokenizer_clean == wanted
    assert evaluate.load(evaluate.parse([str(path)]))[0].data.tokenizer_clean == wanted
    assert config_io.load_config("sample").data.tokenizer_clean == "auto"
