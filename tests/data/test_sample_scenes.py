"""Scenes: the mask, boxes and caption describe what the image shows."""

from __future__ import annotations

import math
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silc.data.sample_set.captions import web_caption, write_caption
from silc.data.sample_set.concepts import with_article
from silc.data.sample_set.scenes import Drawing, draw_background, draw_scene

NAMES = ("dog", "owl", "grapes", "red apple", "bee", "egg", "jeans", "unicorn")
COLOURS = (
    *((255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)),
    *((255, 0, 255), (0, 255, 255), (255, 255, 0), (60, 60, 60)),
)


def blocks(count: int, shape: tuple[int, int] = (40, 24)) -> list[Drawing]:
    """Opaque rectangles of one saturated colour each: a pixel's colour identifies its object."""
    return [
        Drawing(np.full((*shape, 4), (*COLOURS[i], 255), np.uint8), concept_id=10 * i, name=NAMES[i], artist="x")
        for i in range(count)
    ]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 8), size=st.integers(24, 96))
def test_mask_is_the_image(seed, count, size):
    drawings = blocks(count)
    scene = draw_scene(np.random.default_rng(seed), drawings, size)
    assert scene.image.shape == (size, size, 3)
    assert scene.image.dtype == np.uint8
    assert scene.mask.dtype == np.uint16
    seen = np.zeros((size, size), int)
    for drawing, colour in zip(drawings, COLOURS, strict=False):
        seen[(scene.image == colour).all(-1)] = drawing.concept_id + 1
    assert np.array_equal(scene.mask, seen)
    for drawing, (left, top, right, bottom), visible in zip(drawings, scene.boxes, scene.visible, strict=True):
        assert 0 <= left < right <= size
        assert 0 <= top < bottom <= size
        inside = scene.mask[top:bottom, left:right] == drawing.concept_id + 1
        assert inside.sum() == (scene.mask == drawing.concept_id + 1).sum()
        assert inside.mean() == pytest.approx(visible, abs=1e-3)


def test_later_objects_hide_earlier_ones():
    full = blocks(2, shape=(60, 60))
    hidden = 0
    for seed in range(40):
        scene = draw_scene(np.random.default_rng(seed), full, 64)
        assert scene.visible[1] == 1.0
        assert scene.visible[0] > 0.2
        hidden += scene.visible[0] < 1
    assert hidden > 5


def test_edges_blend_and_the_mask_cuts_at_half():
    alpha = np.zeros((20, 20, 4), np.uint8)
    alpha[..., :3] = 255
    alpha[:, :10, 3] = 255
    alpha[:, 10:, 3] = 60
    scene = draw_scene(np.random.default_rng(0), [Drawing(alpha, 4, "dog", "x")], 64)
    left, top, right, bottom = scene.boxes[0]
    mask = scene.mask[top:bottom, left:right]
    half = (right - left) // 2
    assert (mask[:, : half - 2] == 5).all()
    assert (mask[:, half + 2 :] == 0).all()


def test_object_scale():
    single = [draw_scene(np.random.default_rng(seed), blocks(1), 96).boxes[0] for seed in range(200)]
    sides = np.array([max(right - left, bottom - top) for left, top, right, bottom in single]) / 96
    assert sides.min() >= 0.54
    assert sides.max() <= 0.99
    assert 0.7 < sides.mean() < 0.83


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_captions_name_every_object(count):
    phrases = ["a dog", "an owl", "grapes", "a red apple"][:count]
    captions = {write_caption(np.random.default_rng(seed), phrases) for seed in range(200)}
    assert all(phrase in caption for phrase in phrases for caption in captions)
    if count == 1:
        assert captions == {"a dog", "a drawing of a dog"}
    else:
        assert len(captions) >= 6
        starts = {min(phrases, key=caption.index) for caption in captions}
        assert starts == set(phrases)
        assert all(caption.count(" and ") == 1 and caption.count(", ") == count - 2 for caption in captions)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 8), left_out=st.floats(0, 1))
def test_a_web_caption_names_some_of_the_objects(seed, count, left_out):
    named = {with_article(name) for name in NAMES[:count]}
    said = set(re.split(", | and ", re.sub("^a (drawing of|picture with) ", "", caption_of(seed, count, left_out))))
    assert said
    assert said <= named


def test_shares_of_the_objects_that_a_web_caption_leaves_out():
    assert all(caption_of(seed, 3, 0.0).count(" and ") == 1 for seed in range(50))
    alone = Counter(caption_of(seed, 2, 1.0).split(" ")[-1] for seed in range(400))
    assert set(alone) == {"dog", "owl"}  # whichever: a fixed one would never be learned apart
    assert 150 < alone["dog"] < 250
    named = sum("owl" in caption_of(seed, 4, 0.25) for seed in range(2000))
    assert abs(named / 2000 - 0.75) < 4 * math.sqrt(0.75 * 0.25 / 2000)


def caption_of(seed: int, count: int, left_out: float) -> str:
    return web_caption(np.random.default_rng(seed), NAMES[:count], left_out)


def test_backgrounds_are_pale_and_varied():
    made = np.stack([draw_background(np.random.default_rng(seed), 48) for seed in range(100)])
    assert made.min() > 150
    assert made.max() <= 255
    textured = made.reshape(100, -1, 3).std(1).max(-1) > 0.5
    assert 40 <= textured.sum() <= 75
    assert made.mean((1, 2)).std(0).min() > 3


def test_a_scene_is_a_function_of_its_generator():
    first, again = (draw_scene(np.random.default_rng([0, 1, 7]), blocks(3), 64) for _ in range(2))
    other = draw_scene(np.random.default_rng([0, 1, 8]), blocks(3), 64)
    assert np.array_equal(first.image, again.image)
    assert first.caption == again.caption
    assert not np.array_equal(first.image, other.image)
