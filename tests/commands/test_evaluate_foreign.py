"""`silc evaluate` and `silc.load` on models of other libraries: what they are measured at, and what must be said."""

from __future__ import annotations

import json
import math
import warnings
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoTokenizer

import silc
from silc.commands.evaluate import main
from silc.commands.export import main as export
from tests.data.small_tokenizers import make_word_tokenizer
from tests.interchange.foreign import MODEL_CFG, changed, write_open_clip
from tests.interchange.test_read_big_vision import arrays
from tests.interchange.test_read_hugging_face import write as write_siglip

WORDS = ["thing", "a", "of", "held", *map(str, range(20))]
TEXTS = ["thing 1 of 2", "a thing", "held 3"]
DESCRIBED = changed(MODEL_CFG, "text_cfg.hf_tokenizer_name", "org/name")


class Kinds(NamedTuple):
    """A model of each kind; the first two folders hold their tokenizer."""

    open_clip: Path
    hugging_face: Path
    bare: Path
    npz: Path
    tokenizer: Path


@pytest.fixture(scope="module")
def kinds(tmp_path_factory) -> Kinds:
    base = tmp_path_factory.mktemp("kinds")
    write_open_clip(base / "open_clip", DESCRIBED)
    write_siglip(base / "hugging_face")
    for name in ("open_clip", "hugging_face", "tokenizer"):
        make_word_tokenizer(base / name, WORDS)
    bare = base / "bare.safetensors"
    bare.write_bytes((base / "open_clip" / "open_clip_model.safetensors").read_bytes())
    np.savez(base / "silc.npz", **arrays())
    return Kinds(base / "open_clip", base / "hugging_face", bare, base / "silc.npz", base / "tokenizer")


@pytest.fixture
def call(data, monkeypatch):
    """The command, called in this process beside the shards of the tests: (status, stdout, stderr)."""
    monkeypatch.chdir(data)
    shards = [f"eval.shards=[{data}/eval.tar]", f"eval.classes={data}/classes.txt", "eval.templates=['{}']"]

    def call(*words: object) -> tuple[int, str, str]:
        out, err = StringIO(), StringIO()
        fast = [] if "eval.report=true" in words else ["eval.report=false"]
        fast += ["--tasks=zeroshot_classification,retrieval"]
        with redirect_stdout(out), redirect_stderr(err):
            try:
                status = main([str(word) for word in (*words, *fast, *shards)])
            except SystemExit as leaving:
                status = leaving.code
        return status, out.getvalue(), err.getvalue()

    return call


def test_every_kind_is_measured(kinds, call, tmp_path):
    """Files of weights alone with the tokenizer that is named, and as the folder with the same weights."""
    found = {}
    for name in Kinds._fields[:4]:
        path = getattr(kinds, name)
        named = [f"data.tokenizer={kinds.tokenizer}"] if path.is_file() else []
        status, out, err = call(path, "--out", tmp_path / name, *named)
        assert status == 0, err
        assert "chance" in out
        rows = json.loads((tmp_path / name / "evaluation.json").read_text())["results"]
        assert [row["task"] for row in rows] == ["zeroshot_classification", "retrieval"]
        found[name] = rows
        assert ("note: model.vision.heads: " in err) == (name == "bare")
    reported = [f"data.tokenizer={kinds.tokenizer}", "eval.report=true"]
    status, out, err = call(kinds.npz, "--out", tmp_path / "reported", *reported)
    assert status == 0, err
    assert str(kinds.npz) in (tmp_path / "reported" / "report.html").read_text()
    assert call(kinds.hugging_face)[0] == 0
    assert (kinds.hugging_face / "evaluation.json").is_file(), "a folder takes its results"


@pytest.mark.parametrize("name", ["bare", "npz"])
def test_a_file_needs_a_place_for_results_and_a_tokenizer(kinds, call, tmp_path, name):
    path = getattr(kinds, name)
    status, _, err = call(path, f"data.tokenizer={kinds.tokenizer}")
    assert status == 2
    assert "is a file, beside which no results are written; give --out FOLDER" in err
    status, _, err = call(path, "--out", tmp_path)
    assert status == 2
    assert f"{path} does not say which tokenizer its text tower of 90 tokens was trained with; give data.tokeni" in err
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"does not say which tokenizer.*give tokenizer=FOLDER"):
        silc.load(path)


def test_a_tokenizer_that_does_not_fit_is_refused(kinds, call, tmp_path):
    status, _, err = call(kinds.npz, "--out", tmp_path, "data.tokenizer=open_clip_bpe")
    assert status == 2
    assert "model.text.vocab_size=90 is less than the 49408 tokens of data.tokenizer=open_clip_bpe" in err


def test_what_is_no_model_is_refused_in_a_line(call, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert", "auto_map": {"AutoModel": "mine.Mine"}}')
    for path in (tmp_path, tmp_path / "config.json"):
        status, _, err = call(path, "--out", tmp_path / "out")
        assert status == 2
        assert "Traceback" not in err
        assert str(path) in err


def test_load_gives_open_clips_features(kinds):
    """Through open_clip's own tokenizer and preprocessing."""
    model = silc.load(kinds.open_clip, device="cpu")
    twin, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{kinds.open_clip}")
    tokens = open_clip.get_tokenizer(f"local-dir:{kinds.open_clip}")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8))
    with torch.no_grad():
        images = twin.eval().encode_image(preprocess(image)[None], normalize=True)
        texts = twin.encode_text(tokens(TEXTS), normalize=True)
    torch.testing.assert_close(model.encode_image(image), images, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.encode_text(TEXTS), texts, atol=1e-5, rtol=1e-5)
    assert model.logit_scale == pytest.approx(float(twin.logit_scale.detach().exp()), rel=1e-6)
    assert model.logit_bias == pytest.approx(float(twin.logit_bias.detach()), rel=1e-6)
    assert repr(model.tokenizer(TEXTS).tolist()) == repr(tokens(TEXTS).tolist())


def test_load_gives_transformers_features(kinds):
    model, twin = silc.load(kinds.hugging_face, device="cpu"), AutoModel.from_pretrained(kinds.hugging_face).eval()
    tokenizer = AutoTokenizer.from_pretrained(kinds.hugging_face)
    asked = {"max_length": 12, "padding": "max_length", "truncation": True, "return_tensors": "pt"}
    with torch.no_grad():
        texts = twin.get_text_features(tokenizer(TEXTS, **asked)["input_ids"]).pooler_output
    torch.testing.assert_close(model.encode_text(TEXTS, normalize=False), texts, atol=1e-5, rtol=1e-5)
    assert model.logit_scale == pytest.approx(math.exp(float(twin.logit_scale.detach())), rel=1e-6)


def test_load_takes_a_tokenizer_by_name(kinds):
    model = silc.load(kinds.npz, device="cpu", tokenizer=str(kinds.tokenizer))
    assert model.encode_text(TEXTS).shape == (3, model.width)
    assert isinstance(model.config.data.tokenizer, str)
    with pytest.raises(ValueError, match=r"data\.tokenizer='/no/where' cannot be used"):
        silc.load(kinds.open_clip, tokenizer="/no/where")


def test_what_the_files_do_not_say_is_said_when_they_are_loaded_or_exported(kinds, tmp_path):
    with pytest.warns(UserWarning, match=r"bare\.safetensors: model\.text\.gelu: exact, as open_clip's towers have it"):
        silc.load(kinds.bare, device="cpu", tokenizer=str(kinds.tokenizer))
    with warnings.catch_warnings(action="error"):
        silc.load(kinds.open_clip, device="cpu")
    with redirect_stderr(StringIO()) as said:
        assert export([str(kinds.bare), str(tmp_path / "out"), "--to", "timm"]) == 0
    assert "note: model.vision.gelu: exact, as open_clip's towers have it" in said.getvalue()
