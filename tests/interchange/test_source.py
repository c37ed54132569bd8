"""A configuration of a model that was read."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from silc.interchange.source import Source


def source(config, **fields: object) -> Source:
    return Source(path=Path("there"), kind="", model=config.model, weights={}, **fields)


def test_what_the_files_say_is_in_the_configuration(config):
    found = source(
        config, logit_bias=-10.0, mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3), tokenizer="/a", tokenizer_clean="lower"
    ).config()
    assert found.model == config.model
    assert found.views.global_size == config.model.vision.image_size
    assert found.objective.contrastive == "sigmoid"
    assert (found.data.mean, found.data.std) == ((0.4, 0.5, 0.6), (0.1, 0.2, 0.3))
    assert (found.data.tokenizer, found.data.tokenizer_clean) == ("/a", "lower")


def test_what_they_do_not_say_is_as_by_default(config):
    found = source(config).config()
    assert found.objective.contrastive == "softmax"
    assert (found.data.mean, found.data.tokenizer, found.data.tokenizer_clean) == ((0.5,) * 3, "open_clip_bpe", "auto")
    assert found.objective.max_scale == 100


@pytest.mark.parametrize(("multiplier", "limit"), [(14.3, 100), (100.0, 100), (117.7, 118), (1e6, 1e6)])
def test_the_multiplier_is_within_its_limit(config, multiplier, limit):
    """SigLIP's are above the default."""
    assert source(config, logit_scale=math.log(multiplier)).config().objective.max_scale == pytest.approx(limit, abs=1)
