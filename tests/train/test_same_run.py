"""What a run that goes on must have in common with the one it goes on from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from silc import config_io
from silc.config import Config
from silc.train.same_run import check_same_run
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
        ("objective.contrastive=sigmoid", "objective.contrastive is sigmoid, it was softmax"),
        ("objective.head_only_ema=true", "objective.head_only_ema is True, it was False"),
        ("model.vision.depth=3", "model.vision.depth is 3, it was 12"),
        ("train.seed=5", "train.seed is 5, it was 0"),
    ],
)
def test_a_difference_that_matters_is_refused_and_nothing_else_is_named(word, said):
    with pytest.raises(ValueError, match=r"cannot resume from run/checkpoints/step_00000004") as refused:
        check_same_run(SAVED, changed(word), PATH)
    assert said in str(refused.value)
    assert str(refused.value).count(", it was ") == 1


def test_all_differences_are_named_at_once():
    with pytest.raises(ValueError, match=r"views\.n_local is 4, it was 8; train\.global_batch is 32, it was 16384"):
        check_same_run(SAVED, changed("views.n_local=4", "train.global_batch=32"), PATH)


@pytest.mark.parametrize("word", ["optim.lr=0.1", "data.workers=1", "train.micro_batch=2", "eval.every=3"])
def test_what_may_change(word):
    assert check_same_run(SAVED, changed(word), PATH) == []


def test_other_names_of_shards_are_left_to_the_data_themselves():
    """Data that were moved are the same data; and beside shards the sample set's keys mean nothing."""
    before, after = changed("data.shards=[/old]"), changed("data.shards=[/new]", "data.sample_scenes=9")
    assert check_same_run(before, after, PATH) == []
    mixed = changed("data.sources=[{shards: [/new]}]")
    assert check_same_run(before, mixed, PATH) == []


def test_another_number_of_steps_is_a_note():
    (note,) = check_same_run(SAVED, changed("train.steps=70"), PATH)
    assert note == ("note: train.steps is 70, it was 100000: the schedule is recomputed for the new number of steps")


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
