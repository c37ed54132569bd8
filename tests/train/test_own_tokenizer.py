"""A checkpoint holds its tokenizer: the model is used, and training goes on, where the tokenizer's folder is gone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from silc.config import Config
from silc.data.tokenizer import tokenizer_of
from silc.train import checkpoint, saving
from silc.train.own_tokenizer import check_there
from silc.train.same_run import check_same_run
from tests.data.small_tokenizers import make_siglip_tokenizer, make_word_tokenizer
from tests.train.test_checkpoint import StandIn, save, state_at

TEXTS = ["A photo of two dogs!", "the old house"]


@pytest.fixture
def kept(tmp_path: Path) -> tuple[Path, Config, torch.Tensor]:
    """A checkpoint, the configuration of its run, and what its tokenizer made of TEXTS; the tokenizer has moved."""
    make_siglip_tokenizer(tmp_path / "before")
    (tmp_path / "before" / "weights.bin").write_bytes(b"not of a tokenizer")
    config = Config(preset="mine")
    config.data.tokenizer, config.objective.contrastive = str(tmp_path / "before"), "sigmoid"
    tokens = tokenizer_of(config)(TEXTS)
    path = saving.Saver(tmp_path / "run", config, state_at(5, StandIn())).save()
    shutil.move(tmp_path / "before", tmp_path / "after")
    return path, config, tokens


def test_the_model_is_used_with_the_checkpoints_tokenizer(kept, tmp_path):
    """Also where the run was moved; the configuration of the run stays as it was."""
    path, config, tokens = kept
    assert checkpoint.load_config(path).data.tokenizer == config.data.tokenizer
    shutil.move(tmp_path / "run", tmp_path / "moved")
    there = tmp_path / "moved" / "checkpoints" / path.name
    found, _ = checkpoint.load_config_and_scale(there)
    assert torch.equal(tokenizer_of(found)(TEXTS), tokens)
    assert not (there / "tokenizer" / "weights.bin").exists()


def test_a_changed_file_is_noticed(kept):
    path, *_ = kept
    file = path / "tokenizer" / "tokenizer.json"
    file.write_bytes(file.read_bytes()[:-1] + b" ")
    with pytest.raises(ValueError, match=r"tokenizer/tokenizer\.json is not as it was written"):
        checkpoint.find(path, only=checkpoint.WEIGHTS)


def test_a_resumed_run_is_told_where_the_copy_is_and_may_take_it(kept, tmp_path):
    path, config, _ = kept
    with pytest.raises(ValueError, match="cannot be used") as told:
        check_there(config, path)
    assert str(told.value).endswith(f"The checkpoint has a copy: data.tokenizer={path / 'tokenizer'}")
    for name in (path / "tokenizer", tmp_path / "after"):
        now = checkpoint.load_config(path)
        now.data.tokenizer = str(name)
        check_there(now, path)
        assert check_same_run(config, now, path) == {}


def test_another_tokenizer_is_refused(kept, tmp_path):
    path, config, _ = kept
    make_word_tokenizer(tmp_path / "other", ["a", "dog"])
    for name in ("other", "nowhere"):
        now = checkpoint.load_config(path)
        now.data.tokenizer = str(tmp_path / name)
        with pytest.raises(ValueError, match=r"data\.tokenizer is .*, it was "):
            check_same_run(config, now, path)


def test_open_clips_own_tokenizer_needs_no_files(tmp_path):
    path = save(tmp_path, 1)
    assert not (path / "tokenizer").exists()
    assert checkpoint.load_model_config(path).data.tokenizer == "open_clip_bpe"
    check_there(Config(), path)
