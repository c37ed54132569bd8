"""The loss on held-out pairs, against open_clip's own losses in one process."""

from __future__ import annotations

import math

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from silc.data.splits import DataSet
from silc.evaluate import runner
from silc.evaluate.datasets import EvalData
from silc.evaluate.metric import lower_is_better
from silc.evaluate.tasks import TASKS, validation_loss
from silc.evaluate.tasks.validation_loss import block_loss, blocks_of, chance
from silc.evaluate.towers import Scale, Towers, build_towers
from silc.model.scale import LogitScale

from .conftest import Memory, random_images

SOFTMAX, SIGMOID = Scale(14.0, None), Scale(10.0, -7.5)


def open_clips(images: torch.Tensor, texts: torch.Tensor, scale: Scale) -> float:
    if scale.bias is None:
        return open_clip.loss.ClipLoss()(images, texts, scale.multiplier).item()
    return open_clip.loss.SigLipLoss()(images, texts, scale.multiplier, scale.bias).item()


def unit(rng: np.random.Generator, rows: int, width: int = 7) -> torch.Tensor:
    x = torch.from_numpy(rng.normal(size=(rows, width))).float()
    return torch.nn.functional.normalize(x, dim=-1)


@pytest.fixture
def scaled(config, model):
    """The student to be measured, by the kind of its loss."""

    def build(scale: Scale | None) -> Towers:
        (student,) = build_towers(config, model.state_dict(), {}, torch.device("cpu"), torch.float32, scale)
        return student

    return build


def pairs(count: int, lost: tuple[int, ...] = ()) -> DataSet:
    """Several captions an image; some images without one, and some that cannot be read. No classes."""
    images = [None if n in lost else image for n, image in enumerate(random_images(count))]
    captions = [[] if n % 7 == 3 else [f"thing {n}", "something else"] for n in range(count)]
    return DataSet("pairs", (), Memory(images, captions=captions))


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.sampled_from([SOFTMAX, SIGMOID, Scale(100.0, None)]), st.integers(0, 2**32 - 1))
def test_a_block_is_open_clips_loss(rows, scale, seed):
    rng = np.random.default_rng(seed)
    images, texts = unit(rng, rows), unit(rng, rows)
    assert block_loss(images, texts, scale) == pytest.approx(open_clips(images, texts, scale), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("scale", [SOFTMAX, SIGMOID])
@pytest.mark.parametrize(("wanted", "size", "blocks"), [(5, 5, 4), (8, 8, 2), (1024, 22, 1)])
def test_the_task_is_the_mean_over_blocks(config, scaled, job, scale, wanted, size, blocks):
    """26 images, of which 4 have no caption: blocks of fixed pairs, the first caption of each, the rest left out."""
    config.eval.loss_pairs = wanted
    data, towers = pairs(26), scaled(scale)
    (found,) = validation_loss.run(towers, data, job)
    kept = [n for n in range(26) if n % 7 != 3]
    images = towers.images(torch.stack([data.test.image(n).permute(2, 0, 1) for n in kept]))
    texts = towers.texts([f"thing {n}" for n in kept])
    order = np.random.default_rng(0).permutation(22)
    parts = [torch.from_numpy(order[i * size : (i + 1) * size]) for i in range(blocks)]
    expected = np.mean([open_clips(images[part], texts[part], scale) for part in parts])
    assert found.name == "loss"
    assert found.value == pytest.approx(expected, rel=1e-5)
    assert found.chance == chance(size, scale)
    assert job.notes[0] == "22 pairs of in memory: whole images at 16 px, the first caption of each"
    kind = "softmax loss, scale 14" if scale is SOFTMAX else "sigmoid loss, scale 10, bias -7.5"
    assert job.notes[1].startswith(f"{kind}; {blocks} block")
    left = 22 - size * blocks
    assert (job.notes[-1] == f"{left} pairs beyond the last whole block left out") == bool(left)


def test_unreadable_images_are_counted_and_not_replaced(scaled, job):
    towers, data = scaled(SOFTMAX), pairs(12, lost=(0, 5))
    (found,) = validation_loss.run(towers, data, job)
    assert job.skipped == {("memory/0", "undecodable image"), ("memory/5", "undecodable image")}
    kept = [1, 2, 4, 6, 7, 8, 9, 11]
    images = towers.images(torch.stack([data.test.image(n).permute(2, 0, 1) for n in kept]))
    texts = towers.texts([f"thing {n}" for n in kept])
    assert found.value == pytest.approx(open_clips(images, texts, SOFTMAX), rel=1e-5)


def test_one_pair_has_no_loss(scaled, job):
    with pytest.raises(ValueError, match=r"in memory: a contrastive loss needs two pairs or more, and there is 1"):
        list(validation_loss.run(scaled(SOFTMAX), pairs(2, lost=(0,)), job))


@given(st.integers(2, 5000), st.integers(2, 1024))
def test_blocks_share_the_pairs_without_overlap(count, wanted):
    size, blocks = blocks_of(count, wanted)
    taken = torch.cat(blocks)
    assert size == min(wanted, count)
    assert {len(block) for block in blocks} == {size}
    assert len(set(taken.tolist())) == len(taken) == count // size * size
    assert all(torch.equal(one, other) for one, other in zip(blocks, blocks_of(count, wanted)[1], strict=True))


@pytest.mark.parametrize("pairs", [2, 10, 1024])
@pytest.mark.parametrize("scale", [SOFTMAX, SIGMOID])
def test_chance_is_the_least_loss_of_one_logit_for_all(pairs, scale):
    """Found by trying logits: features that are all alike, with any bias."""
    same = torch.nn.functional.normalize(torch.ones(pairs, 3), dim=-1)
    tried = [Scale(0.0, None)] if scale is SOFTMAX else [Scale(0.0, b) for b in np.arange(-9.0, 1.0, 0.01)]
    assert chance(pairs, scale) == pytest.approx(min(open_clips(same, same, one) for one in tried), rel=1e-3)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_the_scale_is_the_models_own(kind):
    trained = LogitScale(kind, init_scale=12.5, init_bias=-3.0)
    bias = None if kind == "softmax" else -3.0
    for scale in (Scale.of(trained), Scale.from_logarithm(math.log(12.5), bias)):
        assert scale.multiplier == pytest.approx(12.5)
        assert scale.bias == bias
    assert Scale.of(LogitScale(kind, init_scale=200.0)).multiplier == 100  # at most objective.max_scale, as in training
    assert Scale.from_logarithm(None, bias) is None


def test_without_a_scale_it_is_left_out_with_a_reason(config, scaled, world):
    data, towers = EvalData(None, pairs(12), None), scaled(None)
    asked = ["validation_loss", "retrieval"]
    results = runner.evaluate(config, [towers], data, asked, world, strict=True)
    assert [result.task for result in results] == ["retrieval"]
    said = "validation_loss is left out: the scale of student's logits is not known"
    assert said in runner.table(results, data, asked, [towers]).splitlines()
    towers = scaled(SIGMOID)
    results = runner.evaluate(config, [towers], data, asked, world, strict=True)
    assert [result.task for result in results] == asked
    assert "left out" not in runner.table(results, data, asked, [towers])
    assert next(iter(runner.scalars(results))) == "eval/validation_loss/student/loss"


def test_both_image_towers_have_the_students_scale(config, model):
    average = {name: value for name, value in model.state_dict().items() if name.startswith("visual.")}
    for towers in build_towers(config, model.state_dict(), average, torch.device("cpu"), torch.float32, SIGMOID):
        assert towers.scale == SIGMOID


def test_a_loss_is_better_where_it_is_lower():
    assert lower_is_better("loss")
    assert lower_is_better("eval/validation_loss/student/loss")
    assert not lower_is_better("eval/retrieval/student/image_to_text_r1")
    assert TASKS["validation_loss"].scaled
