"""Rules across keys: what cannot train is refused, and a shorter run keeps its schedule's shape."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from silc import config_io
from silc.config import Config
from silc.config_rules import validate


def load(*overrides: str, preset: str | Path = "sample") -> Config:
    return config_io.load_config(preset, overrides)


SMALL = """
model:
  vision: {image_size: 64, patch_size: 8, width: 128, heads: 4}
  text: {width: 128, heads: 4}
views: {n_global: 2, n_local: 4, global_size: 64, local_size: 32}
optim: {warmup_steps: 50, cooldown_steps: 0}
train: {steps: 600, global_batch: 128}
"""


@pytest.fixture
def small(tmp_path) -> Path:
    (tmp_path / "small.yaml").write_text(SMALL)
    return tmp_path / "small.yaml"


LIT = ["objective.distill=false", "views.n_local=0", "train.init=/a/model"]


@pytest.mark.parametrize(
    ("ranks", "overrides", "said"),
    [
        (3, [], ["train.global_batch=128", "3 ranks", "take 126"]),
        (2, ["train.micro_batch=48"], ["train.micro_batch=48", "64 pairs", "take 32"]),
        (1, ["optim.warmup_steps=400", "optim.cooldown_steps=300"], ["400", "300", "train.steps=600"]),
        (1, ["data.std=[0.5, 0, 0.5]"], ["data.std", "positive"]),
        (1, ["optim.rules=[{pattern: 'a(b'}]"], ["optim.rules", "'a(b'", "regular expression"]),
        (1, ["objective.init_scale=200"], ["objective.init_scale=200.0", "objective.max_scale=100.0"]),
        (1, ["model.vision.heads=3"], ["model.vision.heads=3", "model.vision.width=128", "take 2"]),
        (1, ["model.text.heads=5"], ["model.text.heads=5", "model.text.width=128"]),
        (1, ["model.vision.image_size=60"], ["model.vision.image_size=60", "patch_size=8", "take 64"]),
        (1, ["views.global_size=67"], ["views.global_size=67", "take 64"]),
        (1, ["views.local_size=3"], ["views.local_size=3", "take 8"]),
        (1, ["views.global_area=[0.9, 0.4]"], ["views.global_area", "smaller"]),
        (1, ["views.local_area=[0.9, 0.4]"], ["views.local_area", "smaller"]),
        (1, ["views.n_global=0"], ["views.n_global=0"]),
        (1, ["views.n_local=0"], ["views.n_local", "objective.global_to_global"]),
        (1, ["views.n_local=0", "views.n_global=1", "objective.global_to_global=true"], ["views.n_global > 1"]),
        (1, ["views.n_global=1", "objective.global_to_global=true"], ["views.n_global >= 2", "not 1"]),
        (1, ["objective.distill=false"], ["4 local crops", "views.n_local=0"]),
        (
            1,
            ["objective.distill=false", "views.n_local=0", "objective.contrastive_views=original"],
            ["2 global crops", "views.n_global=0"],
        ),
        (1, ["objective.distill=false", "views.n_local=0", "views.n_global=0"], ["views.n_global=0"]),
        (
            1,
            ["objective.head_only_ema=true", "objective.contrastive_views=original"],
            ["objective.head_only_ema", "original_and_globals"],
        ),
        (1, ["optim.locked=[vision, text]"], ["optim.locked=[vision, text]", "logit scale", "lock one"]),
        (
            1,
            ["optim.locked=[vision]", "train.init=/a/model"],
            ["optim.locked=[vision]", "add objective.distill=false views.n_local=0,"],
        ),
        (1, ["optim.locked=[text]"], ["optim.locked=[text]", "random first weights", "train.init=PATH"]),
        (1, ["optim.locked=[text]", "optim.text_layer_decay=0.9"], ["optim.text_layer_decay=0.9", "[text]"]),
        (
            1,
            ["optim.locked=[vision]", "optim.vision_layer_decay=0.9", *LIT],
            ["optim.vision_layer_decay=0.9", "optim.locked=[vision]"],
        ),
        (1, ["optim.locked=[vision]", "model.vision.drop_path=0.1", *LIT], ["drop_path=0.1", "drop_path=0"]),
        (1, ["model.vision.drop_path=0.1", "model.vision.depth=1"], ["drop_path=0.1", "depth=1"]),
        *(
            (1, [f"model.vision.{key}=0.1", "objective.head_only_ema=true"], [f"model.vision.{key}=0.1", "teacher"])
            for key in ("drop_path", "patch_dropout")
        ),
    ],
)
def test_what_cannot_train_is_refused(small, ranks, overrides, said):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is looked at
        validate(load(*overrides, preset=small), ranks)
    for part in said:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["views.n_local=0", "objective.global_to_global=true"],
        ["views.n_local=0", "views.local_size=3", "objective.global_to_global=true"],  # a size that nothing uses
        ["objective.contrastive_views=original"],
        ["objective.head_only_ema=true", "objective.contrastive_views=original_and_globals"],
        ["objective.distill=false", "views.n_local=0", "objective.contrastive_views=original_and_globals"],
        ["optim.warmup_steps=300", "optim.cooldown_steps=300"],
        ["train.micro_batch=16"],
        ["optim.locked=[vision]", "model.vision.patch_dropout=0.5", "optim.text_layer_decay=0.9", *LIT],
        ["optim.locked=[text]", "model.vision.drop_path=0.1", "optim.vision_layer_decay=0.75", "train.init=/a/model"],
        ["optim.locked=[text]", "train.resume=auto"],
    ],
)
def test_what_can_train_is_let_through(small, overrides):
    config = load(*overrides, preset=small)
    before = copy.deepcopy(config)
    validate(config, 2)
    assert config == before


@pytest.mark.parametrize(
    "words", [[], ["objective.contrastive_views=original"], ["objective.contrastive_views=original_and_globals"]]
)
def test_the_way_out_for_a_locked_image_tower_is_a_whole_line(small, words):
    """Added to the command as it is written."""
    locked = [*words, "optim.locked=[vision]", "train.init=/a/model"]
    with pytest.raises(ValueError, match=r"optim\.locked=\[vision\], but self-distillation") as refused:
        validate(load(*locked, preset=small), 1)
    way = str(refused.value).partition("; add ")[2].partition(",")[0].split()
    validate(load(*locked, *way, preset=small), 1)


@pytest.mark.parametrize(
    "word",
    [
        "model.vision.drop_path=1", "model.vision.patch_dropout=1", "model.vision.patch_dropout=-0.1",
        "optim.vision_layer_decay=0", "optim.text_layer_decay=1.1", "optim.locked=[head]", "model.text.gelu=quick",
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(small, word):
    with pytest.raises(ValueError, match=word.partition("=")[0].replace(".", r"\.")):
        load(word, preset=small)


# A run shorter than its preset's schedule

WITH_SCHEDULE = SMALL.replace("warmup_steps: 50, cooldown_steps: 0", "warmup_steps: 400, cooldown_steps: 200").replace(
    "steps: 600,", "steps: 6000,"
)


@pytest.mark.parametrize(
    ("overrides", "warmup", "cooldown", "noted"),
    [
        (
            ["train.steps=60"],
            20,
            10,
            ["optim.warmup_steps scaled from 400 to 20", "optim.cooldown_steps scaled from 200 to 10"],
        ),
        (["train.steps=1199"], 399, 199, ["optim.warmup_steps scaled from 400 to 399"]),
        (["train.steps=1"], 0, 0, ["train.steps=1: optim.warmup_steps scaled from 400 to 0"]),
        (["train.steps=1200"], 400, 200, []),
        (["train.steps=60000"], 400, 200, []),
        (["train.steps=60", "optim.warmup_steps=5"], 5, 30, ["optim.cooldown_steps scaled from 200 to 30"]),
        (["train.steps=60", "optim.warmup_steps=50"], 50, 10, ["optim.cooldown_steps scaled from 200 to 10"]),
        (["train.steps=60", "optim.cooldown_steps=0"], 30, 0, ["optim.warmup_steps scaled from 400 to 30"]),
        (["train.steps=60", "optim.warmup_steps=5", "optim.cooldown_steps=6"], 5, 6, []),
        (["optim.warmup_steps=5900"], 5900, 100, ["train.steps=6000: optim.cooldown_steps scaled from 200 to 100"]),
    ],
)
def test_a_shortened_run_gives_at_most_half_to_its_presets_schedule(tmp_path, overrides, warmup, cooldown, noted):
    (tmp_path / "scheduled.yaml").write_text(WITH_SCHEDULE)
    config = load(*overrides, preset=tmp_path / "scheduled.yaml")
    assert (config.optim.warmup_steps, config.optim.cooldown_steps) == (warmup, cooldown)
    assert len(config.notes) == bool(noted)
    for part in noted:
        assert part in config.notes[0]
    validate(config, 1)


def test_a_preset_whose_schedule_takes_more_than_half_keeps_its_share(tmp_path):
    (tmp_path / "long.yaml").write_text(WITH_SCHEDULE.replace("steps: 6000", "steps: 800"))
    shares = {}
    for steps in (800, 799, 400, 4):
        config = load(f"train.steps={steps}", preset=tmp_path / "long.yaml")
        shares[steps] = (config.optim.warmup_steps, config.optim.cooldown_steps)
    assert shares == {800: (400, 200), 799: (399, 199), 400: (200, 100), 4: (2, 1)}


@pytest.mark.parametrize("preset", ["sample", "sample_gpu", "silc_vit_b16"])
def test_a_step_more_or_less_changes_the_schedule_by_as_much(preset):
    for near in (20, 40, 80, 200, 100_000, 200_000):
        warmups = [load(f"train.steps={near + d}", preset=preset).optim.warmup_steps for d in (-1, 0, 1)]
        assert warmups == sorted(warmups)
        assert warmups[-1] - warmups[0] <= 1


def test_the_notes_of_a_run_are_not_those_of_the_next(tmp_path):
    first = load("train.steps=20")
    assert first.notes
    (tmp_path / "config.yaml").write_text(config_io.to_yaml(first))
    second = load(preset=tmp_path / "config.yaml")
    assert second.notes == []
    assert second.optim == first.optim


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.steps=60", "optim.warmup_steps=400"],
        ["train.steps=60", "optim.warmup_steps=40", "optim.cooldown_steps=21"],
        ["optim.warmup_steps=6001"],
    ],
)
def test_a_schedule_that_was_asked_for_and_does_not_fit_is_refused(tmp_path, overrides):
    (tmp_path / "scheduled.yaml").write_text(WITH_SCHEDULE)
    with pytest.raises(ValueError, match=r"optim\.warmup_steps=\d+ \+ optim\.cooldown_steps=\d+ exceed train\.steps"):
        validate(load(*overrides, preset=tmp_path / "scheduled.yaml"), 1)


@pytest.mark.parametrize(
    ("best", "every", "words"),
    [
        ("eval/retrieval/student/r1", 0, "eval.every is 0"),
        ("top1", 5, "names no metric"),
        ("eval/linear_segmentation/student/miou", 5, "names no metric"),
        ("eval/retrieval/both/r1", 5, "names no metric"),
        ("eval/retrieval/student/r1", 5, None),
    ],
)
def test_the_best_is_a_metric_of_the_evaluations_on_the_way(best, every, words):
    config = load(f"train.keep_best={best}", f"eval.every={every}")
    if words is None:
        validate(config, 1)
    else:
        with pytest.raises(ValueError, match=words):
            validate(config, 1)
