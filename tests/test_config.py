"""The configuration: presets, overrides, files, and their errors."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from silc import config_io, presets
from silc.config import Config
from silc.config_rules import validate

ROOT = Path(__file__).resolve().parents[1]
NAMES = presets.names()


def load(*overrides: str, preset: str | Path = "sample", file: Path | None = None) -> Config:
    return config_io.load_config(preset, overrides, file=file)


def refusal(*overrides: str, **kwargs) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the callers look at the message
        load(*overrides, **kwargs)
    return str(caught.value)


# Presets


def test_the_promised_presets_are_there():
    promised = {"sample", "silc_vit_b16", "silc_vit_l16", "silc_so400m14"}
    assert promised | {"clip_vit_b16", "clip_views_vit_b16", "siglip_vit_b16", "sample_clip"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_whole(name):
    config = load(preset=name)
    assert config.preset == name
    for ranks in (1, 2, 64):
        validate(config, ranks)
    assert set(config.unverified) <= set(config_io.valid_keys())
    assert len(set(config.unverified)) == len(config.unverified)


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("sample")])
def test_a_preset_of_the_paper_marks_what_is_unverified(name):
    assert {"optim.lr", "objective.ema_momentum", "train.global_batch"} <= set(load(preset=name).unverified)


def test_the_baselines_differ_from_silc_by_configuration_alone():
    silc, clip, views, siglip = (load(preset=f"{name}_vit_b16") for name in ("silc", "clip", "clip_views", "siglip"))
    assert clip.model == views.model == siglip.model == silc.model
    assert (silc.objective.distill, silc.views.n_global, silc.views.n_local) == (True, 2, 8)
    assert not any(baseline.objective.distill for baseline in (clip, views, siglip))
    assert (clip.n_original, clip.views.n_global, views.n_original, views.views.n_global) == (1, 0, 0, 2)
    assert (clip.objective.contrastive, siglip.objective.contrastive) == ("softmax", "sigmoid")


def test_the_sample_presets_baseline_differs_by_views_and_distillation_alone():
    silc, clip = (config_io.to_dict(load(preset=name)) for name in ("sample", "sample_clip"))
    different = {
        f"{section}.{key}"
        for section, keys in silc.items()
        if isinstance(keys, dict)
        for key, value in keys.items()
        if clip[section][key] != value
    }
    assert different == {"views.n_global", "views.n_local", "objective.distill", "objective.contrastive_views"}
    assert load(preset="sample_clip").n_original == 1


def test_an_unverified_key_that_is_no_key_is_refused(tmp_path):
    (tmp_path / "mine.yaml").write_text("unverified: [optim.lrr]")
    message = refusal(preset=tmp_path / "mine.yaml")
    assert "'optim.lrr'" in message
    assert "did you mean 'optim.lr'" in message


# Precedence and files


def test_the_last_word_wins(tmp_path):
    (tmp_path / "base.yaml").write_text("optim: {lr: 1.0, beta1: 0.1, beta2: 0.1, eps: 0.1}\nunverified: [optim.lr]")
    (tmp_path / "mine.yaml").write_text("extends: base\noptim: {lr: 2.0, beta1: 0.2, beta2: 0.2}\nunverified: []")
    (tmp_path / "over.yaml").write_text("optim: {lr: 3.0, beta1: 0.3}")
    config = load("optim.lr=4", "optim.lr=5", preset=tmp_path / "mine.yaml", file=tmp_path / "over.yaml")
    optim = config.optim
    assert (optim.lr, optim.beta1, optim.beta2, optim.eps) == (5.0, 0.3, 0.2, 0.1)
    assert optim.clip == Config().optim.clip
    assert config.unverified == []  # lists are replaced, not joined
    assert config.preset == "mine"


def test_configurations_do_not_share_lists():
    first, second = load(), load()
    first.data.shards.append("x")
    first.eval.templates.append("y")
    assert second.data.shards == []
    assert load().eval.templates == second.eval.templates


def test_values_are_yaml():
    config = load(
        "optim.lr=3e-4", "model.compile=true", "views.global_area=[0.3, 0.9]", "train.micro_batch=null",
        'data.shards=["a/{000..010}.tar", b]', "optim.rules=[{pattern: head, lr: 0.1}]",
    )  # fmt: skip
    assert config.optim.lr == 3e-4
    assert config.model.compile is True
    assert config.views.global_area == (0.3, 0.9)
    assert config.train.micro_batch is None
    assert config.data.shards == ["a/{000..010}.tar", "b"]
    assert [(rule.pattern, rule.lr, rule.weight_decay) for rule in config.optim.rules] == [("head", 0.1, 1.0)]


@pytest.mark.parametrize("name", NAMES)
def test_yaml_round_trip(name, tmp_path):
    config = load("optim.rules=[{pattern: 'head\\.', lr: 0.1}]", "train.out=runs/x", preset=name)
    path = tmp_path / f"{name}.yaml"
    path.write_text(config_io.to_yaml(config))
    assert load(preset=path) == config
    assert config_io.build(config_io.to_dict(config)) == config


@settings(max_examples=30, deadline=None)
@given(
    st.floats(1e-12, 1e6),
    st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"])), max_size=3),
    st.integers(1, 2**40),
)
def test_any_value_survives_the_round_trip(lr, shards, steps):
    config = load()
    config.optim.lr, config.data.shards, config.train.steps = lr, shards, steps
    assert config_io.build(yaml.safe_load(config_io.to_yaml(config))) == config


# Mistakes


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optim.lrr=1", ["unknown key 'optim.lrr'", "did you mean 'optim.lr'"]),
        ("model.vision.dept=1", ["unknown key", "'model.vision.depth'"]),
        ("optimm.lr=1", ["unknown key 'optimm'", "did you mean 'optim'"]),
        ("lr=1", ["unknown key 'lr'", "did you mean 'optim.lr'"]),
        (
            "optim.rules=[{pattern: x, lrr: 2}]",
            ["'optim.rules.0.lrr'; a rule has pattern, lr, weight_decay"],
        ),
        ("train.steps=abc", ["train.steps='abc'", "integer"]),
        ("train.steps=1.5", ["train.steps=1.5", "integer"]),
        ("train.steps=true", ["train.steps=True", "int"]),
        ("objective.ema_momentum=true", ["objective.ema_momentum=True", "float"]),
        ("train.steps=null", ["train.steps=None", "integer"]),
        ("train.steps=0", ["train.steps=0", "greater than 0"]),
        ("views.flip=1.5", ["views.flip=1.5", "less than or equal to 1"]),
        ("objective.distill_start=1", ["objective.distill_start=1", "less than 1"]),
        ("engine.zero_stage=0", ["engine.zero_stage=0", "1"]),
        ("engine.precision=fp16", ["engine.precision='fp16'", "'bf16'", "'fp32'"]),
        ("views.global_area=[0.4]", ["views.global_area"]),
        ("data.shards=/a,/b", ["""'data.shards=["/a", "/b"]'""", """'data.shards=["/a,/b"]'"""]),
        ("eval.after=fewshot, retrieval", ["""'eval.after=["fewshot", "retrieval"]'"""]),
        ("eval.shots=1,5", ["'eval.shots=[1, 5]'"]),
        ("eval.after=fewshots", ["eval.after.0='fewshots'", "'fewshot'"]),
        ("data.shards=true", ["data.shards=True", "list"]),
        ("optim.rules=head", ["optim.rules='head'", "list"]),
        ("data.shards=[a{0..1}.tar]", ["not valid YAML", "quotes"]),
        ("optim.lr", ["'optim.lr' has no value; write optim.lr=VALUE"]),
        ("lr", ["'lr' is not an override", "section.key=value"]),
        ("train.steps=", ["train.steps= has no value; give a whole number, as in train.steps=500"]),
        ("optim.lr=", ["optim.lr= has no value; give a number, as in optim.lr=0.001"]),
        ("views.photometric= ", ["views.photometric= has no value; give true or false"]),
        ("data.shards=", ["data.shards= has no value; give a value, as in data.shards=[]"]),
        ("train.steps=1e3", ["train.steps='1e3'", "; write 1000"]),
        ("train.steps=1e-3", ["train.steps='1e-3'", "integer"]),
        (r"""optim.rules=[{pattern: "^text\.", lr: 0}]""", ["in double quotes YAML reads \\ as an escape"]),
        ("optim.rules=^text", ["optim.rules='^text'", "list, as in [{pattern: ^text, lr: 0}]"]),
        ("optim.rules=[{lr: 0}]", ["optim.rules.0 has no pattern"]),
        ("eval.after=[retreival]", ["did you mean 'retrieval'?"]),
        ("engine.precision=bf61", ["did you mean 'bf16'?"]),
        ("=3", ["not an override"]),
        ("optim.lr=[", ["'optim.lr=['", "not valid YAML"]),
        (
            "optim.lr=2026-13-01",
            ["'optim.lr=2026-13-01'", "a value that is no timestamp; put text in quotes, at character 1"],
        ),
        ("optim.lr=!!bool x", ["'optim.lr=!!bool x'", "a value that is no bool"]),
        ("preset=silc_vit_b16", ["--preset silc_vit_b16"]),
    ],
)
def test_a_mistake_names_the_key_and_the_way_out(override, said):
    message = refusal(override)
    for part in said:
        assert part in message
    assert "Traceback" not in message
    assert len(message.removeprefix("configuration:\n").splitlines()) == 1


@pytest.mark.parametrize("key", [key for key in config_io.valid_keys() if key.count(".")])
def test_a_slip_in_any_key_names_a_valid_one(key):
    named = re.search(r"did you mean '([^']+)'", refusal(f"{key}x=1"))
    assert named
    assert named[1] == key


@pytest.mark.parametrize(
    "word", ["optim.lr=.inf", "optim.lr=.nan", "objective.init_bias=.nan", "data.mean=[0, .inf, 0]"]
)
def test_a_number_that_is_not_finite_is_refused(word):
    message = refusal(word)
    assert word.partition("=")[0] in message
    assert "finite" in message


def test_a_caption_needs_room_between_its_marks():
    assert "model.text.context_length=2" in refusal("model.text.context_length=2")
    assert load("model.text.context_length=3").model.text.context_length == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data.shards=/a", "/b", "/c", "optim.lr=1"], "'/b' after 'data.shards=/a': write one list in quotes: "),
        (["data.shards=/a", "/b", "/c", "optim.lr=1"], """'data.shards=["/a", "/b", "/c"]'"""),
        (["eval.shots=1", "5"], "'eval.shots=[1, 5]'"),
        (["optim.lr=1", "2"], "'2' is not an override"),
        (["data.shards=[/a]", "/b"], "'/b' is not an override"),
        (["data.shards=[/a,", "/b]", "optim.lr=1"], "'/b]' after 'data.shards=[/a,': put the list in quotes: "),
        (["data.shards=[/a,", "/b]", "optim.lr=1"], "'data.shards=[/a, /b]'"),
        (["data.shards=/a", "train.steps"], "'train.steps' has no value; write train.steps=VALUE"),
        # What a shell makes of data.shards=/d/{0..1}.tar without quotes.
        (["data.shards=/d/0.tar", "data.shards=/d/1.tar"], "given 2 times, and only the last would count"),
    ],
)
def test_several_values_without_brackets_are_answered_with_the_right_quotes(words, said):
    assert said in refusal(*words)
    with pytest.raises(ValueError, match=re.escape(said)):
        config_io.override(load(), words)


def test_a_key_that_may_be_null_needs_no_value():
    assert load("train.out=").train.out is None


def test_one_value_is_a_list_of_one():
    config = load("data.shards=/data/pairs", "eval.after=fewshot", "eval.shots=5", "eval.models=student")
    assert config.data.shards == ["/data/pairs"]
    assert config.eval.after == ["fewshot"]
    assert config.eval.shots == [5]
    assert config.eval.models == ["student"]
    assert load("data.shards=/d/{a,b}/{00..09}.tar").data.shards == ["/d/{a,b}/{00..09}.tar"]
    assert load('data.shards=["/a,/b"]').data.shards == ["/a,/b"]
    assert config_io.build({"eval": {"shards": "x.tar"}}).eval.shards == ["x.tar"]


def test_all_mistakes_are_named_at_once():
    message = refusal("optim.lrr=1", "train.steps=-1", "views.flip=x")
    assert all(part in message for part in ("optim.lrr", "train.steps=-1", "views.flip"))


def test_files_that_cannot_be_read(tmp_path):
    assert "did you mean 'silc_vit_b16'" in refusal(preset="silc_vit_b61")
    assert all(name in refusal(preset="nothing_like_it") for name in NAMES)
    assert "no preset" in refusal(preset=tmp_path / "absent.yaml")
    assert "absent.yaml" in refusal(file=tmp_path / "absent.yaml")
    (tmp_path / "bad.yaml").write_text("optim: [1")
    assert "not valid YAML" in refusal(preset=tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    assert "mapping" in refusal(file=tmp_path / "list.yaml")
    (tmp_path / "a.yaml").write_text("extends: b")
    (tmp_path / "b.yaml").write_text("extends: a")
    assert "circle" in refusal(preset=tmp_path / "a.yaml")
    (tmp_path / "orphan.yaml").write_text("extends: nobody")
    assert "nobody" in refusal(preset=tmp_path / "orphan.yaml")
    (tmp_path / "self.yaml").write_text("extends: ../" + tmp_path.name + "/self.yaml")
    assert "circle" in refusal(preset=tmp_path / "self.yaml")
    for wrong in ("[a]", "5", "true"):
        (tmp_path / "wrong.yaml").write_text(f"extends: {wrong}")
        assert "wrong.yaml: extends: a preset is a name" in refusal(preset=tmp_path / "wrong.yaml")
    assert "not None" in refusal(preset=None)
    assert "no preset" in refusal(preset="a" * 300)
    assert "no preset" in refusal(preset="a\0b")
    assert "nested too deeply" in refusal("train.steps=" + "[" * 20_000)
    assert "unknown key" in refusal("a." * 5000 + "b=1")


def test_a_preset_of_ones_own_extends_one_beside_it_or_one_of_the_package(tmp_path):
    def steps(name: str, text: str) -> int:
        (tmp_path / name).write_text(text)
        return config_io.load_config(tmp_path / name).train.steps

    assert steps("mine.yaml", "extends: clip_vit_b16") == config_io.load_config("clip_vit_b16").train.steps
    assert steps("sample.yaml", "extends: sample") == config_io.load_config("sample").train.steps
    assert steps("base1.yaml", "extends: sample\ntrain: {steps: 77}") == 77
    assert steps("file.yaml", "extends: base1.yaml") == 77
    assert steps("clip_vit_b16.yaml", "train: {steps: 78}") == 78
    assert steps("name.yaml", "extends: clip_vit_b16") == 78


# Derived values


def test_the_batch_sets_the_momentum_and_a_sample_weighs_the_same():
    assert load("objective.ema_momentum=null", "train.global_batch=16384").ema_momentum == pytest.approx(0.966)
    small, large = (load("objective.ema_momentum=null", f"train.global_batch={b}").ema_momentum for b in (256, 4096))
    assert math.log(small) / 256 == pytest.approx(math.log(large) / 4096)
    assert load("objective.ema_momentum=0.5").ema_momentum == 0.5


def test_distillation_starts_at_its_fraction():
    assert load("objective.distill_start=0.25", "train.steps=600").distill_start_step == 150
    assert load("objective.distill=false", "train.steps=600").distill_start_step == 600
