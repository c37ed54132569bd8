"""What a run that goes on must have in common with the one it goes on from."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

from silc import config_io
from silc.config import Config
from silc.train import same_run
from silc.train.same_run import check_distillation, check_same_run, notes, trained_config
from silc.train.start import nothing_left

SAVED = Config()
PATH = Path("run/checkpoints/step_00000004")


def changed(*words: str) -> Config:
    return config_io.override(Config(), words)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("data.shuffle_block=64", "data.shuffle_block is 64, it was 8192"),
        ("data.unique_captions=true", "data.unique_captions is True, it was False"),
        ("data.tokenizer=other", "data.tokenizer is other, it was open_clip_bpe"),
        ("data.sample_scenes=99", "data.sample_scenes is 99, it was 24000"),
        ("data.sample_captions=web", "data.sample_captions is web, it was clean"),
        ("data.sample_objects=[0, 1]", "data.sample_objects is [0.0, 1.0], it was [0.65, 0.2, 0.1, 0.05]"),
        ("data.sample_unseen=[twemoji]", "data.sample_unseen is ['twemoji'], it was ['emojione']"),
        ("objective.contrastive=sigmoid", "objective.contrastive is sigmoid, it was softmax"),
        ("objective.head_only_ema=true", "objective.head_only_ema is True, it was False"),
        ("model.vision.depth=3", "model.vision.depth is 3, it was 12"),
        ("model.vision.gelu=tanh", "model.vision.gelu is tanh, it was exact"),
        ("optim.locked=[text]", "optim.locked is ['text'], it was []"),
        ("train.seed=5", "train.seed is 5, it was 0"),
    ],
)
def test_a_difference_that_matters_is_refused_and_nothing_else_is_named(word, said):
    with pytest.raises(ValueError, match=r"cannot resume from run/checkpoints/step_00000004") as refused:
        check_same_run(SAVED, changed(word), PATH)
    assert said in str(refused.value)
    assert str(refused.value).count(", it was ") == 1


WEB, ALONE = "data.sample_captions=web", "objective.distill=false"


@pytest.mark.parametrize(
    ("beside", "word", "said"),
    [
        (WEB, "data.sample_left_out=0.1", "data.sample_left_out is 0.1, it was 0.5"),
        (WEB, "data.sample_mismatched=0", "data.sample_mismatched is 0.0, it was 0.2"),
        (ALONE, "objective.ema=true", "objective.ema is True, it was False"),
    ],
)
def test_what_has_an_effect_beside_another_key_alone_is_refused_there_and_no_difference_elsewhere(beside, word, said):
    with pytest.raises(ValueError, match="with other settings") as refused:
        check_same_run(changed(beside), changed(beside, word), PATH)
    assert said in str(refused.value)
    assert str(refused.value).count(", it was ") == 1
    assert check_same_run(SAVED, changed(word), PATH) == {}


def test_the_order_of_unseen_artists_is_no_difference():
    one, other = (changed(f"data.sample_unseen=[{names}]") for names in ("noto, noto-v1", "noto-v1, noto"))
    assert check_same_run(one, other, PATH) == {}


def test_all_differences_are_named_at_once():
    with pytest.raises(ValueError, match=r"views\.n_local is 4, it was 8; train\.global_batch is 32, it was 16384"):
        check_same_run(SAVED, changed("views.n_local=4", "train.global_batch=32"), PATH)


def test_more_extensions_of_images_are_named_and_others_are_refused():
    earlier = changed("data.image_keys=[jpg, jpeg, png, webp]")
    (change,) = check_same_run(earlier, SAVED, PATH).items()
    assert change == ("data.image_keys", (earlier.data.image_keys, SAVED.data.image_keys))
    (line,) = notes(dict([change]), earlier, SAVED, 4)
    assert line.endswith(": samples that had no image may have one now; until then others replaced them")
    for words in ("[jpg, jpeg, png]", "[png, jpg, jpeg, webp]", "[gif, jpg, jpeg, png, webp]"):
        with pytest.raises(ValueError, match=r"data\.image_keys is "):
            check_same_run(earlier, changed(f"data.image_keys={words}"), PATH)


HARMLESS = [
    "data.workers=1", "data.cache=/here", "train.micro_batch=2", "train.save_every=3", "eval.every=3",
    "engine.zero_stage=3", "kernels.distill=torch", "objective.contrastive_chunk=8", "optim.optimizer=torch_adamw",
    "views.device=host", "views.crops_on=device", "eval.sample_split=both",
]  # fmt: skip


@pytest.mark.parametrize("word", HARMLESS)
def test_what_changes_no_more_than_rounding_or_speed_is_not_named(word):
    assert check_same_run(SAVED, changed(word), PATH) == {}


NAMED = {
    "optim.lr=0.1": (1e-3, 0.1),
    "optim.schedule=cosine": ("rsqrt", "cosine"),
    "optim.warmup_steps=7": (50_000, 7),
    "optim.beta2=0.99": (0.95, 0.99),
    "optim.weight_decay=0": (1e-4, 0.0),
    "optim.clip=3": (1.0, 3.0),
    "optim.vision_layer_decay=0.8": (1.0, 0.8),
    "optim.text_layer_decay=0.9": (1.0, 0.9),
    "model.vision.drop_path=0.1": (0.0, 0.1),
    "model.vision.patch_dropout=0.5": (0.0, 0.5),
    "objective.teacher_temp=0.07": (0.04, 0.07),
    "objective.ema_momentum=0.5": (None, 0.5),
    "objective.distill_weight=2": (1.0, 2.0),
    "objective.max_scale=50": (100.0, 50.0),
    "data.max_image_pixels=9": (89_478_485, 9),
    "data.upright=false": (True, False),
    "data.mean=[0.1, 0.2, 0.3]": ([0.5] * 3, [0.1, 0.2, 0.3]),
    "train.steps=70000000": (100_000, 70_000_000),
}


@pytest.mark.parametrize("word", NAMED)
def test_what_changes_what_follows_is_named_with_both_values(word):
    key, (before, after) = word.partition("=")[0], NAMED[word]
    now = changed(word)
    changes = check_same_run(SAVED, now, PATH)
    assert changes == {key: (before, after)}
    (line, *_) = notes(changes, SAVED, now, 4)
    assert line.startswith(f"note: {key} is {after}, it was {before}")


def test_every_name_in_the_lists_is_a_key():
    keys = dict(same_run._leaves(config_io.to_dict(SAVED)))
    lists = (*same_run._FIXED, *same_run._RATES, *same_run._NAMED, *same_run._SILENT, *same_run._EFFECTS)
    for name in lists:
        assert any(same_run._within(key, (name,)) for key in keys), name


def test_other_names_of_shards_are_left_to_the_data_themselves():
    """Data that were moved are the same data; and beside shards the sample set's keys mean nothing."""
    before, after = (
        changed("data.shards=[/old]"),
        changed("data.shards=[/new]", "data.sample_scenes=9", "data.sample_captions=web"),
    )
    assert check_same_run(before, after, PATH) == {}
    mixed = changed("data.sources=[{shards: [/new]}]")
    assert check_same_run(before, mixed, PATH) == {}


def said(before: Config, after: Config, step: int) -> list[str]:
    return notes(check_same_run(before, after, PATH), before, after, step)


def test_more_steps_are_named_with_the_learning_rate_before_and_after():
    plain = "optim.schedule=cosine", "optim.warmup_steps=0", "optim.cooldown_steps=0", "optim.lr=0.8"
    before, after = changed("train.steps=4", *plain), changed("train.steps=8", *plain)
    steps = "note: train.steps is 8, it was 4: the schedule is recomputed for the new number of steps"
    rate = 0.8 * (1 + math.cos(math.pi * 2 / 8)) / 2  # half a period, a quarter of it done
    assert said(before, after, 2) == [
        steps, f"note: the learning rate of step 3 is {rate:.4g}, it would have been 0.4"
    ]  # fmt: skip
    last = 0.8 * (1 + math.cos(math.pi * 3 / 4)) / 2
    assert said(before, after, 4) == [
        steps, f"note: the learning rate of step 5 is 0.4, that of step 4 was {last:.4g}"
    ]  # fmt: skip


def test_settings_that_no_step_is_left_to_change_are_named_as_such():
    before, after = changed("train.steps=60000"), changed("train.steps=60000", "optim.lr=5")
    assert said(before, after, 60_000) == ["note: optim.lr is 5.0, it was 0.001 (no step is left that it could change)"]


def test_the_first_scale_has_no_effect_and_a_long_value_is_cut():
    assert said(SAVED, changed("objective.init_scale=3"), 4)[0] == (
        "note: objective.init_scale is 3.0, it was None: without an effect, the scale is the checkpoint's"
    )
    with pytest.raises(ValueError, match="other settings") as refused:
        check_same_run(SAVED, changed(f"data.tokenizer={'x' * 5000}"), PATH)
    assert len(str(refused.value)) < 400


def test_distillation_that_starts_elsewhere_is_named():
    before, after = (changed("objective.distill_start=0.5", f"train.steps={steps}") for steps in (200_000, 300_000))
    line = "note: distillation starts at step 150000, it would have started at step 100000"
    assert said(before, after, 60_000)[-1] == line


@pytest.mark.parametrize(
    ("step", "refused"), [(99, True), (51, True), (50, False), (40, False), (100, True), (101, False)]
)
def test_distillation_that_would_have_started_is_refused(step, refused):
    """Its teacher would be the first weights of the run: the student is copied at the step where it starts."""
    plain = "optim.warmup_steps=0", "optim.cooldown_steps=0", "objective.distill_start=0.5"
    before, after = changed("train.steps=200", *plain), changed("train.steps=101", *plain)
    after.objective.distill_start = 50 / 101
    if not refused:
        check_distillation(before, after, step, PATH)
        return
    with pytest.raises(ValueError, match=f"at step {step} distillation has not started") as error:
        check_distillation(before, after, step, PATH)
    way = re.search(r"take objective\.distill_start=(\S+) or later", str(error.value))
    after.objective.distill_start = float(way[1])
    assert after.distill_start_step == step
    check_distillation(before, after, step, PATH)


def test_a_run_with_nothing_left_keeps_what_it_was_trained_with():
    now = changed("optim.lr=5", "train.out=elsewhere", "eval.limit=3")
    assert trained_config(SAVED, now) == changed("eval.limit=3")


def test_shards_against_the_sample_set_are_refused():
    """Either way: a command without data.shards would go on with the embedded drawings."""
    own = changed("data.shards=[/mine]")
    with pytest.raises(ValueError, match=r"data\.shards=\['/mine'\], with the embedded sample set") as refused:
        check_same_run(own, SAVED, PATH)
    assert "give data.shards=... again (a resumed run takes its configuration from the command)" in str(refused.value)
    with pytest.raises(ValueError, match=r"trained on the embedded sample set, with data\.shards=\['/mine'\]"):
        check_same_run(SAVED, own, PATH)
    with pytest.raises(
        ValueError, match=r"with data\.sources=\['/a', '/b'\]: leave data\.shards and data\.sources out"
    ):
        check_same_run(SAVED, changed("data.sources=[{shards: [/a, /b]}]"), PATH)


def finished(folder: Path, **other) -> None:
    rules = config_io.to_dict(Config())["eval"]
    result = {"task": "retrieval", "model": "student", "metrics": {"r1": {"value": 0.5, "chance": None}}}
    results = [result | {"error": error} for error in other.pop("errors", [None])]
    found = {"step": 30, "eval": rules, "results": results} | other
    (folder / "evaluation.json").write_text(json.dumps(found))


def test_a_run_with_all_its_steps_and_its_evaluation_has_nothing_left(tmp_path):
    config, path = changed("train.steps=30"), tmp_path / "checkpoints" / "step_00000030"
    assert not nothing_left(config, 20, path, tmp_path)
    assert nothing_left(config, 40, path, tmp_path)
    assert not nothing_left(config, 30, path, tmp_path)  # it ended in its last evaluation
    assert nothing_left(config, 30, path, tmp_path / "another")
    for other in ({"step": 20}, {"eval": {}}, {"errors": ["out of time"]}):
        finished(tmp_path, **other)
        assert not nothing_left(config, 30, path, tmp_path)
    finished(tmp_path)
    assert nothing_left(config, 30, path, tmp_path)


@pytest.mark.parametrize("word", ["eval.after=[]", "data.shards=[/mine]"])
def test_a_run_that_is_not_evaluated_ends_with_its_export(word, tmp_path):
    config, path = changed("train.steps=30", word), tmp_path / "checkpoints" / "step_00000030"
    assert not nothing_left(config, 30, path, tmp_path)
    (tmp_path / "open_clip").mkdir()
    assert nothing_left(config, 30, path, tmp_path)
