"""Model cards: what they say of a run, and what they keep to themselves."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

import silc
from silc import config_io
from silc.config import Config, ParameterRule, SourceRule
from silc.interchange.write.compare import Compared
from silc.interchange.write.formats import FORMATS
from silc.train.card import LEFT_OUT, PLACES, History, _name, card
from tests.interchange.sources import varied
from tests.test_pretrained import make_config, make_weights, write_run

HOSTILE = "<script>x</script> [a](http://evil) ![b](http://evil/c.png) | `c` ```\n# title\n{{ 7 * 7 }} {% raw %}"


def card_of(config: Config, **history: Any) -> str:
    return card(varied(make_config()), "open_clip", "student", History(config, 7, **history), None)


def split(text: str) -> tuple[dict[str, Any], str]:
    """Front matter and page."""
    _, front, page = text.split("---\n", 2)
    return yaml.safe_load(front), page


def configuration(text: str) -> dict[str, Any]:
    (found,) = [token.content for token in MarkdownIt().parse(split(text)[1]) if token.info == "yaml"]
    return yaml.safe_load(found)


@pytest.mark.parametrize("to", FORMATS)
def test_the_front_matter_is_what_the_hub_reads(to):
    text = card(varied(make_config()), to, "student", History(make_config(), 7), Compared("other 1.0", 1e-7, None))
    front, page = split(text)
    library = {"open_clip": "open_clip", "hf": "transformers", "timm": "timm", "onnx": "onnx"}[to]
    task = "image-feature-extraction" if to == "timm" else "zero-shot-image-classification"
    assert (front["library_name"], front["pipeline_tag"], front["license"]) == (library, task, "other")
    assert "arxiv:2310.13355" in front["tags"]
    assert "loaded by other 1.0; image features of unit length differ by at most 1.0e-07" in page


def test_versions_are_those_of_the_export(monkeypatch):
    """The card cannot know which version trained the model."""
    text = card_of(make_config())
    assert "trained with silc: contrastive pretraining" in text
    assert f"exported by silc {silc.__version__}." in text
    monkeypatch.setattr("silc.train.card.OPSET", 99)
    assert "have opset 99 and" in card(varied(make_config()), "onnx", "student", None, None)


def test_where_data_and_runs_lie_is_kept_out():
    config = make_config()
    config.data.shards = [
        "s3://key:secret@private-bucket/inner/{000..099}.tar",
        "https://host.example/inner/{a/1,b/2}.tar?token=secret",
        "/home/somebody/inner/x.tar",
    ]
    config.data.tokenizer, config.data.cache = "/home/somebody/tokenizer", "/home/somebody/cache"
    config.eval.classification, config.eval.classes = "imagenet:/home/somebody/val", "/home/somebody/names.txt"
    config.train.out, config.train.init = "/home/somebody/runs/one", "/home/somebody/runs/zero"
    config.train.wandb_project, config.notes = "somebodys-project", ["data.shards=/home/somebody"]
    text = card_of(config, metrics=())
    for word in ("secret", "somebody", "private-bucket", "host.example", "inner", "token="):
        assert word not in text, word
    assert "- `{000..099}.tar`, `{1,2}.tar`, `x.tar`" in text
    found = configuration(text)
    assert found["eval"]["classification"] == "val"
    assert found["data"]["tokenizer"] == "tokenizer"
    assert found["train"]["init"] == "zero"
    assert found["eval"]["templates"] == config.eval.templates
    assert found["model"]["vision"]["image_size"] == 24


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("/home/me/x.tar", "x.tar"),
        ("{/home/me/a,/home/me/b}.tar", "{a,b}.tar"),
        ("/home/me{/a,/b}.tar", "{a,b}.tar"),
        ("/home/{me/a,you/{b,c}}.tar", "{a,{b,c}}.tar"),
        ("/home/{me,you}/{000..099}.tar", "{000..099}.tar"),
        ("train_{a,b}.tar", "train_{a,b}.tar"),
        ("{/home/me/,/home/you/}x.tar", "{,}x.tar"),
        ("{/home/me/a,/home/me/b.tar", "b.tar"),
        ("/home/me/}x.tar", "}x.tar"),
        (r"C:\\me\\{a\\b,c}.tar", "{b,c}.tar"),
        ("imagenet:/home/me/val/", "val"),
        ("/", "/"),
        ("/home/me/" + "{" * 2000 + "/a/b" + "}" * 2000, "{" * 2000 + "b" + "}" * 2000),
    ],
)
def test_of_an_address_its_last_names_remain(address, shown):
    assert _name(address) == shown


def test_only_addresses_are_cut():
    config = make_config()
    config.data.license = "CC-BY 4.0 https://creativecommons.org/licenses/by/4.0/"
    config.data.image_keys, config.optim.rules = ["a/jpg"], [ParameterRule(pattern="visual/x")]
    found = configuration(card_of(config))
    assert found["data"]["license"] == config.data.license
    assert (found["data"]["image_keys"], found["optim"]["rules"][0]["pattern"]) == (["a/jpg"], "visual/x")


def test_it_is_known_of_each_key_of_text_whether_it_is_an_address():
    keys = [
        key for key, kind, *_ in config_io.describe() if re.search(r"\bstr\b", kind) and not key.startswith("kernels.")
    ]
    texts = {key.rpartition(".")[2] for key in keys}
    left_out = {key for keys in LEFT_OUT.values() for key in keys}
    assert texts - PLACES - left_out == {
        "preset", "unverified", "image_keys", "caption_key", "license", "pattern", "templates", "keep_best",
    }  # fmt: skip


def test_names_that_are_no_places_stay():
    config = make_config()
    config.data.tokenizer, config.train.keep_best = "google/siglip-base", "eval/zeroshot_classification/student/top1"
    config.eval.templates = ["a black/white photo of {}"]
    found = configuration(card_of(config))
    assert found["data"]["tokenizer"] == "google/siglip-base"
    assert found["train"]["keep_best"] == config.train.keep_best
    assert found["eval"]["templates"] == config.eval.templates


def test_what_strangers_wrote_is_text():
    """A preset's name, shards, licences, templates, and names of tasks and data in evaluation.json."""
    config = make_config()
    config.preset = config.data.license = HOSTILE
    config.data.shards = ["/x/" + HOSTILE.replace("/", "")]
    config.eval.templates = ["{}\n```\n<script>"]
    row = {"task": HOSTILE, "metric": HOSTILE, "data": HOSTILE, "value": 0.5, "chance": None}
    text = card_of(config, metrics=(row,))
    assert "49" not in re.sub("49408", "", split(text)[1].partition("## Configuration")[0])
    tokens = MarkdownIt().enable("table").parse(split(text)[1])
    inline = [child for token in tokens for child in token.children or []]
    assert {token.type for token in inline} <= {
        "text", "code_inline", "em_open", "em_close", "link_open", "link_close", "softbreak", "text_special",
    }  # fmt: skip
    assert not any(token.type.startswith("html") for token in tokens)
    assert {token.attrs["href"] for token in inline if token.type == "link_open"} == {
        "https://arxiv.org/abs/2310.13355"
    }
    assert [token.tag for token in tokens if token.type == "heading_open"] == ["h1"] + ["h2"] * 5
    assert len([token for token in tokens if token.type == "tr_open"]) == 5 + 2
    assert configuration(text)["eval"]["templates"] == config.eval.templates


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=60))
def test_any_name_leaves_the_page_whole(name):
    config = make_config()
    config.preset, config.data.shards, config.data.license = name, [f"/{name}"], name
    found = configuration(card_of(config))
    assert found["model"]["text"]["context_length"] == 8


def test_the_data_are_named_with_their_licences():
    config = make_config()
    text = card_of(config)
    assert "- the sample set embedded in silc, drawings of emoji: 24,000 scenes\n" in text
    assert "- of these, `noto` is by Google Inc, licence Apache-2.0" in text
    assert text.count("- of these, ") == 8  # seven artists, and the names of the drawings
    assert "`emojione`" not in text
    assert "Licence of the training data: those of its parts above." in text
    config.data.sample_captions, config.data.sample_mismatched = "web", 0.125
    config.data.sample_unseen = ["noto", "noto-v1"]
    text = card_of(config)
    assert "24,000 scenes with web-like captions (of the objects 50% are not named, of the captions 12.5% are" in text
    assert text.count("- of these, ") == 6
    assert "`noto`" not in text
    config.data.sources = [SourceRule(shards=["/a/1.tar"], weight=3.0), SourceRule(shards=["/b/2.tar"])]
    text = card_of(config)
    assert "- `1.tar`, weight 3\n- `2.tar`, weight 1\n" in text
    assert "Licence of the training data: not stated." in text
    config.data.license = "CC-BY-4.0"
    assert "Licence of the training data: CC-BY-4.0." in card_of(config)
    assert "114,688 pairs seen: 7 steps of 16,384 pairs" in text
    config.data.sources, config.data.shards = [], [f"/a/{n}.tar" for n in range(50)]
    assert "`19.tar` and 30 more" in card_of(config)


def test_metrics_are_those_of_the_step_and_the_model(tmp_path):
    config, weights = make_config(), make_weights(make_config(), 1)
    path = write_run(tmp_path / "run", config, weights, weights)

    def evaluated(step: int) -> None:
        top1 = {"value": 0.625, "chance": 0.25}
        row = {"task": "fewshot", "data": "some/where", "metrics": {"top1": top1, "top1_std": top1}, "error": None}
        results = [row | {"model": "teacher"}]
        text = json.dumps({"step": step, "eval": {}, "results": results})
        (tmp_path / "run" / "evaluation.json").write_text(text)

    found = History.of(path, "teacher")
    assert found is not None
    assert (found.step, found.metrics) == (7, ())
    evaluated(7)
    row = {"task": "fewshot", "metric": "top1", "data": "where", "value": 0.625, "chance": 0.25}
    assert History.of(path, "teacher").metrics == (row,)
    assert "| few-shot | top1 | 0.6250 | 0.2500 | where |" in card_of(config, metrics=(row,))
    assert History.of(path, "student").metrics == ()
    evaluated(6)
    assert History.of(path, "teacher").metrics == ()
    (tmp_path / "run" / "evaluation.json").write_text("{")
    assert History.of(path, "teacher").metrics == ()


def test_a_model_of_others_is_said_to_be_one(tmp_path):
    assert History.of(tmp_path, "student") is None
    text = card(varied(make_config()), "hf", "student", None, None)
    front, page = split(text)
    assert "arxiv:2310.13355" not in front["tags"]
    assert "converted from a checkpoint" in page
    assert "Licence of the training data: not known" in page
    assert "It was not compared with the model by another library" in page
    assert Path("README.md").name not in page
