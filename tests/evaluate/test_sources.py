"""What a run trains on and is measured on, and the mistakes that must show before training, not after it."""

from __future__ import annotations

import pytest

from silc.config import Config
from silc.data.sample import SampleSet
from silc.train import sources

from .conftest import NAMES


@pytest.fixture
def mine(config, shards, tmp_path) -> Config:
    """Own data and an evaluation set."""
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    config.data.shards = ["train.tar"]
    config.eval.shards = shards([0, 6, None])
    config.eval.classes = str(tmp_path / "classes.txt")
    return config


def test_own_shards_with_an_evaluation_set(mine, world, tmp_path):
    shards, suite = sources.resolve(mine, world, tmp_path)
    assert shards == ["train.tar"]
    assert (suite.shards, suite.classes) == (mine.eval.shards, NAMES)


def test_own_shards_alone_are_not_evaluated(config, world, tmp_path):
    config.data.shards = ["train.tar"]
    assert sources.resolve(config, world, tmp_path) == (["train.tar"], None)


def test_no_shards_mean_the_sample_set_and_the_unseen_artist(config, world, tmp_path, monkeypatch):
    class Sample(SampleSet):
        def shards(self, split):
            return [f"{split}.tar"]

        def class_names(self, split):
            return ["apple", "bear"]

    asked = {}
    monkeypatch.setattr(sources, "ensure_sample", lambda root, **kw: asked.update(kw, root=root) or Sample(tmp_path))
    config.data.sample_scenes = 77
    shards, suite = sources.resolve(config, world, tmp_path)
    assert shards == ["train.tar"]
    assert suite.shards == ["unseen_artist.tar"]
    assert suite.classes == ["an apple", "a bear"]
    assert asked == {"root": tmp_path, "concepts": "default", "scenes_train": 77}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: setattr(c.eval, "classes", None), "eval.shards and eval.classes go together"),
        (lambda c: setattr(c.eval, "shards", []), "eval.shards and eval.classes go together"),
        (lambda c: setattr(c.eval, "shards", ["absent.tar"]), "absent.tar does not exist"),
        (lambda c: setattr(c.eval, "classes", "absent.txt"), "absent.txt"),
        (lambda c: setattr(c.eval, "templates", []), "eval.templates is empty"),
        (lambda c: setattr(c.eval, "templates", ["a photo"]), "'a photo'"),
        (lambda c: setattr(c.eval, "templates", ["{} and {}"]), "once"),
        (lambda c: setattr(c.eval, "templates", ["{name} is {}"]), "no other brace"),
    ],
)
def test_a_mistake_shows_before_training(mine, world, tmp_path, change, said):
    change(mine)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is looked at
        sources.resolve(mine, world, tmp_path)
    assert said in str(caught.value)


def test_a_class_without_a_name_is_refused(mine, world, tmp_path, shards):
    mine.eval.shards = shards([0, 1, 7])
    with pytest.raises(ValueError, match=r"eval/002 has class 7.*names 0 to 6"):
        sources.resolve(mine, world, tmp_path)


def test_an_evaluation_set_without_classes_is_refused(mine, world, tmp_path, shards):
    mine.eval.shards = shards([None, None])
    with pytest.raises(ValueError, match="no picture has a `class`"):
        sources.resolve(mine, world, tmp_path)
