"""Weights of a source for a configuration: what is loaded, resized, left to begin, ignored, and what is refused."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from silc.config import ModelConfig
from silc.interchange.fit import HEAD, IMAGES, TEXTS, fit
from silc.interchange.positions import resize, resize_text
from silc.interchange.shapes import hidden_width, misfit, mlp_ratio, shapes_of
from silc.interchange.source import Source


@pytest.fixture
def source(config, model) -> Source:
    """As a reader makes it of another library's files: towers, no head."""
    towers = {name: value for name, value in model.state_dict().items() if not name.startswith(HEAD)}
    return Source(path=Path("there"), kind="an open_clip folder", model=config.model, weights=towers)


@pytest.fixture
def wanted(config) -> ModelConfig:
    return copy.deepcopy(config.model)


def test_equal_sizes_load_as_they_are(source, wanted, model):
    weights, report = fit(source, wanted)
    assert weights.keys() == source.weights.keys()
    assert all(torch.equal(weights[name], source.weights[name]) for name in weights)
    assert set(report.loaded) == set(weights)
    assert set(report.initialised) == {name for name in model.state_dict() if name.startswith(HEAD)}
    assert not report.resized
    assert not report.ignored


@pytest.mark.parametrize("how", ["timm", "hugging_face", "big_vision"])
def test_tables_are_resized_and_the_rest_is_not(source, wanted, how):
    wanted.vision.image_size, wanted.text.context_length = 96, 24
    source = Source(path=source.path, kind="", model=source.model, weights=source.weights, resize=how)
    weights, report = fit(source, wanted)
    assert report.resized == {IMAGES: ((8, 8), (12, 12)), TEXTS: ((16,), (24,))}
    assert weights[IMAGES].equal(resize(source.weights[IMAGES], (8, 8), (12, 12), how))
    assert weights[TEXTS].equal(resize_text(source.weights[TEXTS], 24))
    assert set(report.loaded) == weights.keys() - {IMAGES, TEXTS}
    assert all(torch.equal(weights[name], source.weights[name]) for name in report.loaded)
    assert f"resized: {IMAGES} from 8 x 8 to 12 x 12, {TEXTS} from 16 to 24" in report.lines()


def test_every_difference_is_listed_with_overrides_that_fit(source, wanted):
    wanted.vision.width, wanted.vision.heads, wanted.vision.patch_size = 192, 6, 16
    wanted.text.vocab_size, wanted.text.gelu, wanted.text.mlp_ratio = 999, "tanh", 3.0
    source = Source(path=source.path, kind="", model=source.model, weights=source.weights, tokenizer="/a b")
    with pytest.raises(ValueError, match="holds another architecture") as refused:
        fit(source, wanted)
    said = str(refused.value)
    assert "\n" not in said
    for difference in (
        "model.vision.width is 192, the weights have 128",
        "model.vision.heads is 6, the weights have 4",
        "model.vision.patch_size is 16, the weights have 8",
        "model.text.vocab_size is 999, the weights have 600",
        "model.text.gelu is tanh, the weights have exact",
        "model.text.mlp_ratio is 3.0, the weights have 4.0",
    ):
        assert difference in said
    assert said.endswith(
        "What fits: model.vision.patch_size=8 model.vision.width=128 model.vision.heads=4 model.text.vocab_size=600 "
        "model.text.mlp_ratio=4.0 model.text.gelu=exact 'data.tokenizer=/a b'"
    )


def test_a_tokenizer_that_is_not_named_is_asked_for(source, wanted):
    wanted.text.vocab_size = 999
    with pytest.raises(
        ValueError, match=r"vocab_size=600 data\.tokenizer=FOLDER \(of the tokenizer that it was trained"
    ):
        fit(replace(source, tokenizer=None), wanted)


def test_the_overrides_fit(source, wanted):
    wanted.vision.depth, wanted.text.heads, wanted.vision.gelu = 2, 4, "tanh"
    with pytest.raises(ValueError, match=r"model\.text\.heads is 4, the weights have 3") as refused:
        fit(source, wanted)
    for override in str(refused.value).partition("What fits: ")[2].split():
        key, _, value = override.partition("=")
        _, tower, name = key.split(".")
        setattr(getattr(wanted, tower), name, value if name == "gelu" else int(value))
    assert fit(source, wanted)[0].keys() == source.weights.keys()


def test_ratios_that_stand_for_one_width_are_equal(source, wanted):
    wanted.vision.mlp_ratio = 4.001
    assert fit(source, wanted)[0].keys() == source.weights.keys()


def test_a_head_is_taken_if_it_fits(source, wanted, config, model):
    whole = Source(path=Path("run"), kind="a checkpoint", model=config.model, weights=model.state_dict())
    weights, report = fit(whole, wanted)
    assert weights.keys() == model.state_dict().keys()
    assert not report.initialised
    heads = {name for name in weights if name.startswith(HEAD)}
    assert set(fit(whole, wanted, with_head=False)[1].ignored) == heads
    wanted.head.prototypes = 64
    weights, report = fit(whole, wanted)
    assert weights.keys() == source.weights.keys()
    assert set(report.initialised) == set(report.ignored) == heads


def test_what_is_not_known_here_is_ignored_and_said(source, wanted):
    weights = dict(source.weights) | {"visual.head.proj.weight": torch.zeros(3)}
    found = Source(
        path=source.path, kind="", model=source.model, weights=weights, ignored=("opt/x",), assumed={"a.b": "why"}
    )
    fitted, report = fit(found, wanted)
    assert fitted.keys() == source.weights.keys()
    assert report.ignored == ("visual.head.proj.weight", "opt/x")
    assert "assumed: a.b: why" in report.lines()
    assert any(line.startswith("initialised: head.mlp.0.weight, ") for line in report.lines())


def test_weights_that_are_not_of_the_stated_sizes_are_refused(source, wanted):
    weights = dict(source.weights)
    weights[IMAGES] = weights[IMAGES][:, :4]
    for model_size in (64, 96):
        wanted.vision.image_size = model_size
        with pytest.raises(ValueError, match=r"position table of shape|pos_embed has shape \[1, 4, 128\]"):
            fit(Source(path=source.path, kind="", model=source.model, weights=weights), wanted)
    del weights[IMAGES]
    with pytest.raises(ValueError, match=r"there: visual\.trunk\.pos_embed is missing"):
        fit(Source(path=source.path, kind="", model=source.model, weights=weights), wanted)


def test_shapes_are_the_models(config, model):
    state = model.state_dict()
    assert shapes_of(config.model, with_head=True) == {name: value.shape for name, value in state.items()}
    assert not misfit(state, shapes_of(config.model, with_head=False))


@pytest.mark.parametrize(("width", "hidden"), [(768, 3072), (1152, 4304), (96, 97), (1000, 1), (65536, 70001)])
def test_ratios_come_back(width, hidden):
    assert hidden_width(width, mlp_ratio(width, hidden)) == hidden
    assert mlp_ratio(768, 3072) == 4.0
