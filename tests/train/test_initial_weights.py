"""Reading what train.init names: what is compared with the run, what is said, and what is refused."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from silc.config import Config, DataConfig, HeadConfig, ObjectiveConfig, TrainConfig, ViewsConfig
from silc.interchange.read import read
from silc.model.scale import LogitScale
from silc.model.silc import build
from silc.train.init import find_initial, read_initial
from silc.train.same_run import check_same_run, notes
from tests.data.small_tokenizers import make_word_tokenizer
from tests.interchange.foreign import MODEL_CFG, changed, write_open_clip
from tests.interchange.test_read_big_vision import arrays

WORDS = ["a", "photo", "of", "two", "dogs", "the", "old", "house", "film", "hotel"]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """`with`, open_clip's folder with a tokenizer; the tokenizer alone, and one of other words; big_vision's file."""
    base = tmp_path_factory.mktemp("weights")
    described = changed(MODEL_CFG, "text_cfg.hf_tokenizer_name", "org/name")
    write_open_clip(base / "with", changed(described, "text_cfg.tokenizer_kwargs", {"clean": "lower"}))
    for name in ("with", "same"):
        make_word_tokenizer(base / name, WORDS)
    make_word_tokenizer(base / "other", WORDS[::-1])
    np.savez(base / "silc.npz", **arrays())
    return base


def config(made: Path, weights: str, tokenizer: str = "same", clean: str = "lower", **objective) -> Config:
    """A run that fits the weights."""
    source = read(made / weights)
    source.model.head = HeadConfig(prototypes=16, hidden=32, bottleneck=8)
    return Config(
        model=source.model,
        views=ViewsConfig(global_size=48, local_size=16),
        objective=ObjectiveConfig(**{"contrastive": "sigmoid"} | objective),
        data=DataConfig(
            tokenizer=str(made / tokenizer),
            tokenizer_clean=clean,
            mean=source.mean or (0.5, 0.5, 0.5),
            std=source.std or (0.5, 0.5, 0.5),
        ),
        train=TrainConfig(init=str(made / weights)),
    )


def test_what_fits_is_taken_without_a_note(made):
    """Also where the tokenizer lies in another folder."""
    found = read_initial(config(made, "with"))
    assert found.notes == []
    weights = load_file(made / "with" / "open_clip_model.safetensors")
    assert all(torch.equal(value, weights[name]) for name, value in found.weights.items())
    assert f"train.init: an open_clip folder {made / 'with'}: loaded " in found.words
    assert "; initialised head.mlp.0.weight, " in found.words
    assert "\n" not in found.words
    scale = LogitScale("sigmoid")
    found.put_scale(scale)
    assert scale.logit_scale.item() == weights["logit_scale"].item()
    assert scale.logit_bias.item() == weights["logit_bias"].item()
    assert found.record()["init"]["loaded"] == len(weights) - 2


def test_first_values_are_those_of_a_run_of_its_own(made):
    run = config(made, "with")
    student = read_initial(run).student(run).state_dict()
    run.train.init = None

    first = build(run).state_dict()
    for name, value in first.items():
        assert torch.equal(student[name], value) == name.startswith("head.") or not value.any(), name


def test_another_kind_of_loss_begins_with_its_own_scale(made):
    found = read_initial(config(made, "with", contrastive="softmax", max_scale=1.5, init_scale=1.2))
    assert "logit scale and bias begin anew (they are of the sigmoid loss)" in found.words
    assert not any("max_scale" in note for note in found.notes)
    scale = LogitScale("softmax")
    found.put_scale(scale)
    assert scale.logit_scale.item() == pytest.approx(math.log(1 / 0.07))


def test_a_scale_beyond_the_limit_is_brought_to_it(made):
    found = read_initial(config(made, "with", max_scale=1.5, init_scale=1.0))
    assert found.scale == math.log(1.5)
    assert any("cut to objective.max_scale=1.5; objective.max_scale=" in note for note in found.notes)


def test_other_tokens_are_refused_with_what_fits(made):
    with pytest.raises(
        ValueError, match=r"^train\.init: .*trained with other tokens than those of data\.tokenizer="
    ) as e:
        read_initial(config(made, "with", "other"))
    assert str(e.value).endswith(f"What fits: data.tokenizer={made / 'with'} data.tokenizer_clean=lower")


def test_another_cleaning_is_a_note(made):
    (note,) = read_initial(config(made, "with", clean="whitespace")).notes
    assert note.endswith("the weights were trained with lower: data.tokenizer_clean=lower fits")


def test_weights_that_do_not_say_their_tokenizer(made):
    run = config(made, "silc.npz")
    found = read_initial(run)
    assert found.notes == [
        f"the weights do not say which tokenizer they were trained with; data.tokenizer={made / 'same'} is used"
    ]
    assert (found.scale is None) == (found.bias is None)
    run.data.tokenizer, run.data.tokenizer_clean = "open_clip_bpe", "auto"  # as where none is given
    with pytest.raises(ValueError, match=r"does not say which tokenizer .* give data\.tokenizer=FOLDER"):
        read_initial(run)


def test_a_tokenizer_of_more_tokens_than_the_weights_is_refused_before_training(made):
    """By the tokens that fit, not by the size of the table, which is the weights'."""
    run = config(made, "with")
    run.data.tokenizer = "open_clip_bpe"
    with pytest.raises(ValueError, match=r"other tokens than those of data\.tokenizer=open_clip_bpe.*What fits"):
        read_initial(run)


def test_a_tokenizer_that_is_gone_cannot_be_compared(made, tmp_path):
    shutil.copytree(made / "with", tmp_path / "copy")
    (tmp_path / "copy" / "tokenizer.json").unlink()
    run = config(made, "with")
    run.train.init = str(tmp_path / "copy")
    (note,) = read_initial(run).notes
    assert "cannot be compared with data.tokenizer" in note
    assert "has no tokenizer.json" in note


def test_pixels_and_views_that_differ_are_notes(made):
    run = config(made, "with")
    run.data.mean, run.views.global_size = (0.5, 0.5, 0.5), 96
    mean, size = read_initial(run).notes
    assert mean == "data.mean is [0.5, 0.5, 0.5], the weights were trained with data.mean=[0.4,0.5,0.6]"
    assert size == "global crops have 96 px a side (views.global_size), the weights are of 48 px"


def test_a_larger_image_resizes_its_table(made):
    run = config(made, "with")
    run.model.vision.image_size = run.views.global_size = 96
    found = read_initial(run)
    assert "resized visual.trunk.pos_embed from 6 x 6 to 12 x 12" in found.words
    student = found.student(run)
    assert student.visual.trunk.pos_embed.shape == (1, 144, 64)
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert not found.weights, "they are not held twice"


def test_another_architecture_is_refused_with_every_difference(made):
    run = config(made, "with")
    run.model.vision.depth, run.model.text.heads = 3, 2
    with pytest.raises(
        ValueError, match=r"^train\.init: .*model\.vision\.depth is 3.*model\.text\.heads is 2.*What fits"
    ):
        read_initial(run)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(made, tmp_path, value):
    shutil.copytree(made / "with", tmp_path / "copy")
    weights = load_file(tmp_path / "copy" / "open_clip_model.safetensors")
    weights["text.ln_final.bias"][3] = value
    save_file(weights, tmp_path / "copy" / "open_clip_model.safetensors")
    run = config(made, "with")
    run.train.init = str(tmp_path / "copy")
    with pytest.raises(ValueError, match=r"text\.ln_final\.bias holds values that are not finite"):
        read_initial(run)


@pytest.mark.parametrize("wrong", ["none", "empty", "two\nlines", "x" * 5000, "\0"])
def test_what_is_no_model_is_refused_in_a_line(made, tmp_path, wrong):
    (tmp_path / "empty").mkdir()
    run = config(made, "with")
    run.train.init = str(tmp_path / wrong) if wrong == "empty" else wrong
    with pytest.raises(ValueError, match=r"^train\.init: ") as caught:
        find_initial(run)
    assert len(str(caught.value)) < 6000


def test_without_train_init_nothing_is_read():
    assert find_initial(Config()) is None


def test_ranks_that_read_other_weights_are_refused(made, tmp_path, monkeypatch):
    """As on machines whose local disks hold different files by one name; here with two values exchanged."""
    run, told = config(made, "with"), []
    monkeypatch.setattr("silc.train.init.all_gather_objects", lambda value: told.append(value) or told)
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 3):  # a sum of floats differs with them
            torch.set_num_threads(number)
            find_initial(run)
    finally:
        torch.set_num_threads(threads)
    shutil.copytree(made / "with", tmp_path / "copy")
    weights = load_file(tmp_path / "copy" / "open_clip_model.safetensors")
    table = weights["text.token_embedding.weight"]
    table[[0, 1]] = table[[1, 0]]
    save_file(weights, tmp_path / "copy" / "open_clip_model.safetensors")
    run.train.init = str(tmp_path / "copy")
    with pytest.raises(ValueError, match="holds other weights where rank 3 runs"):
        find_initial(run)


def test_a_run_that_is_resumed_says_that_other_weights_have_no_effect(made):
    saved, now = config(made, "with"), config(made, "with")
    now.train.init, now.train.init_model = "elsewhere", "teacher"
    changes = check_same_run(saved, now, Path("run"))
    lines = [line for line in notes(changes, saved, now, 1) if "train.init" in line]
    assert len(lines) == 2
    assert all(line.endswith("without an effect, the weights are the checkpoint's") for line in lines)


def test_a_model_without_a_teacher_has_none(made):
    run = config(made, "with")
    run.train.init_model = "teacher"
    with pytest.raises(ValueError, match=r"^train\.init: .*holds one model; take the student"):
        read_initial(run)
