"""Retrieval against a loop over queries, and against the formula of CLIP_benchmark where captions differ."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from silc.data.splits import DataSet
from silc.evaluate.tasks import retrieval
from silc.evaluate.tasks.retrieval import chance, ranks, recalls

from .conftest import NAMES, Memory, random_images


def unit(rng: np.random.Generator, rows: int) -> torch.Tensor:
    x = rng.normal(size=(rows, 5))
    return torch.from_numpy(x / np.linalg.norm(x, axis=1, keepdims=True))


def by_loop(images, texts, captions, distinct) -> dict[str, float]:
    """Every query by itself: sort, take k, look for a hit."""
    similarity = (images @ texts.T).numpy()
    found = {}
    for k in (1, 5, 10):
        hits = []
        for image, row in enumerate(captions):
            best = [distinct[j] for j in np.argsort(-similarity[image])[:k]]
            hits.append(any(caption in row for caption in best))
        found[f"image_to_text_r{k}"] = np.mean(hits)
        hits = []
        for row in captions:
            for caption in row:
                best = np.argsort(-similarity[:, distinct.index(caption)])[:k]
                hits.append(any(caption in captions[image] for image in best))
        found[f"text_to_image_r{k}"] = np.mean(hits)
    return found


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 25), st.integers(1, 4), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_recalls_equal_a_loop(images, most, words, seed):
    """Several captions an image, captions shared by images, one caption for all of them."""
    rng = np.random.default_rng(seed)
    captions = [list({f"c{rng.integers(words)}" for _ in range(rng.integers(1, most + 1))}) for _ in range(images)]
    distinct = list(dict.fromkeys(caption for row in captions for caption in row))
    images, texts = unit(rng, images), unit(rng, len(distinct))
    found = {metric.name: metric.value for metric in recalls(images, texts, captions, distinct)}
    assert found == pytest.approx(by_loop(images, texts, captions, distinct))


def test_without_equal_captions_it_is_the_usual_recall():
    """As CLIP_benchmark computes it: of the k best, is one a positive pair."""
    rng = np.random.default_rng(0)
    captions = [[f"{image}-{n}" for n in range(5)] for image in range(30)]
    distinct = [caption for row in captions for caption in row]
    images, texts = unit(rng, 30), unit(rng, 150)
    scores = texts @ images.T
    positive = torch.zeros_like(scores, dtype=torch.bool)
    positive[torch.arange(150), torch.arange(150) // 5] = True
    found = {metric.name: metric.value for metric in recalls(images, texts, captions, distinct)}
    for name, s, p in (("text_to_image", scores, positive), ("image_to_text", scores.T, positive.T)):
        for k in (1, 5, 10):
            expected = p.gather(1, s.topk(k, dim=1).indices).any(1).double().mean().item()
            assert found[f"{name}_r{k}"] == pytest.approx(expected)


def test_ties_are_against_the_model():
    same = torch.ones(4, 2) / math.sqrt(2)
    assert ranks(same, same, [[0], [1], [2], [3]]).tolist() == [3, 3, 3, 3]
    assert ranks(same, same, [[0, 1, 2, 3]] * 4).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(("own", "candidates", "k"), [(1, 10, 1), (1, 10, 5), (3, 20, 5), (2, 3, 5), (4, 4, 1)])
def test_chance_is_that_of_drawing(own, candidates, k):
    drawn = min(k, candidates)
    missed = math.comb(candidates - own, drawn) / math.comb(candidates, drawn)
    assert chance(own, candidates, k) == pytest.approx(1 - missed)


def test_the_task(towers, job):
    captions = [["thing 1"], ["thing 2", "thing 3"], [], ["thing 1"], ["thing 5"]]
    images = random_images(5, seed=4)
    images[4] = None
    found = {m.name: m for m in retrieval.run(towers, DataSet("x", NAMES, Memory(images, captions=captions)), job)}
    kept, distinct = [0, 1, 3], ["thing 1", "thing 2", "thing 3"]
    images = towers.images(torch.stack([images[i].permute(2, 0, 1) for i in kept]))
    expected = by_loop(images, towers.texts(distinct), [captions[i] for i in kept], distinct)
    assert {name: metric.value for name, metric in found.items()} == pytest.approx(expected)
    assert found["text_to_image_r10"].chance == 1
    assert found["image_to_text_r1"].chance == pytest.approx((1 / 3 + 2 / 3 + 1 / 3) / 3)
    assert found["text_to_image_r1"].chance == pytest.approx((2 / 3 + 1 / 3 + 1 / 3 + 2 / 3) / 4)
    assert job.skipped == {("memory/4", "undecodable image")}
    assert "4 captions, 3 distinct" in job.notes[0]
