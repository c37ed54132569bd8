"""Few-shot classification against scikit-learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier

from silc.data.splits import DataSet
from silc.evaluate.tasks import fewshot
from silc.evaluate.tasks.fewshot import choose, neighbours, ridge

from .conftest import Memory, random_images


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(2, 20), st.floats(0.1, 1e4), st.integers(0, 2**32 - 1))
def test_ridge_equals_scikit_learns(classes, shots, width, penalty, seed):
    """Fewer shots than features and more: both of the systems solved."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(classes), shots)
    x = rng.normal(size=(len(y), width)) + rng.normal(size=(classes, width))[y]
    test = rng.normal(size=(40, width))
    mean, std = x.mean(0), x.std(0) + 1e-5
    extended = lambda f: np.hstack([(f - mean) / std, np.full((len(f), 1), 100.0)])  # noqa: E731
    targets = np.where(np.eye(classes)[y] > 0, 1.0, -1.0)
    scores = Ridge(alpha=penalty, fit_intercept=False, solver="svd").fit(extended(x), targets).predict(extended(test))
    scores = scores.reshape(len(test), classes)
    found = ridge(torch.from_numpy(x), torch.from_numpy(y), classes, torch.from_numpy(test), penalty).numpy()
    # A tie up to rounding may go either way.
    best = scores.max(1)
    assert np.allclose(scores[np.arange(len(test)), found], best, rtol=1e-6, atol=1e-8)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 25), st.integers(0, 2**32 - 1))
def test_neighbours_equal_scikit_learns(classes, shots, count, seed):
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(classes), shots)
    x, test = (rng.normal(size=(rows, 8)) for rows in (len(y), 50))
    x, test = (f / np.linalg.norm(f, axis=1, keepdims=True) for f in (x, test))
    voting = lambda distance: np.exp((1 - distance) / 0.07)  # noqa: E731
    oracle = KNeighborsClassifier(min(count, len(y)), weights=voting, metric="cosine", algorithm="brute").fit(x, y)
    found = neighbours(torch.from_numpy(x), torch.from_numpy(y), classes, torch.from_numpy(test), count)
    assert (found.numpy() == oracle.predict(test)).mean() >= 0.98  # fp32 votes that tie
    assert torch.equal(
        found, neighbours(torch.from_numpy(x), torch.from_numpy(y), classes, torch.from_numpy(test), count)
    )


def test_fewer_shots_are_the_head_of_more_and_draws_differ():
    labels = {number: number % 3 for number in range(60)}
    one, five = choose(labels, 1, 0), choose(labels, 5, 0)
    for label in range(3):
        assert five[label][:1] == one[label]
        assert len(set(five[label])) == 5
        assert {labels[number] for number in five[label]} == {label}
    assert choose(labels, 5, 0) == five
    assert choose(labels, 5, 1) != five
    assert choose({0: 4}, 5, 0) == {4: [0]}  # fewer images than shots


@pytest.fixture
def data() -> DataSet:
    """Colours are the classes."""

    def split(count: int, seed: int) -> Memory:
        rng = np.random.default_rng(seed)
        colours = np.array([[230, 30, 30], [30, 230, 30], [30, 30, 230]])
        pixels = [np.clip(colours[i % 3] + rng.integers(-20, 20, (16, 16, 3)), 0, 255) for i in range(count)]
        return Memory([torch.from_numpy(p.astype(np.uint8)) for p in pixels], labels=[i % 3 for i in range(count)])

    return DataSet("colours", ("red", "green", "blue"), split(12, 0), split(30, 1))


def test_the_task(config, towers, job, data):
    config.eval.shots, config.eval.draws, config.eval.ridge = [1, 4, 50], 3, 1.0
    found = {metric.name: metric for metric in fewshot.run(towers, data, job)}
    expected = [f"{name}_{shots}shot{end}" for shots in (1, 4, 50) for name in ("ridge", "knn") for end in ("", "_std")]
    assert list(found) == expected
    assert found["knn_1shot"].chance == pytest.approx(1 / 3)
    assert found["knn_1shot_std"].chance is None
    assert found["ridge_4shot"].value == 1.0  # the colours are easy to separate
    assert found["knn_50shot_std"].value == 0.0  # every draw takes all images
    assert any("3 classes have fewer than 50 training images" in note for note in job.notes)


def test_classes_without_an_image_are_noted(config, towers, job, data):
    config.eval.shots, config.eval.draws = [4], 1
    names = (*data.classes, "yellow", "pink")
    assert {metric.chance for metric in fewshot.run(towers, replace(data, classes=names), job)} == {1 / 5, None}
    assert "the images show 3 of the 5 classes; all 5 compete, and chance is a guess among them" in job.notes
    assert "2 classes have no training image" in job.notes
    assert not any("fewer than" in note for note in job.notes)


def test_mean_and_deviation_are_over_draws(config, towers, job):
    images = random_images(40)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 40).tolist()
    data = DataSet(
        "noise", tuple("abcd"), Memory(images[:20], labels=labels[:20]), Memory(images[20:], labels=labels[20:])
    )
    config.eval.shots, config.eval.draws, config.eval.neighbours = [2], 3, 1
    found = {metric.name: metric.value for metric in fewshot.run(towers, data, job)}
    features = [towers.images(torch.stack(part).permute(0, 3, 1, 2)) for part in (images[20:], images[:20])]
    scores = []
    for draw in range(3):
        chosen = choose(dict(enumerate(labels[20:])), 2, draw)
        rows = [number for row in chosen.values() for number in row]
        nearest = (features[1] @ features[0][rows].T).argmax(1).tolist()
        scores.append(np.mean([labels[20 + rows[n]] == label for n, label in zip(nearest, labels[:20], strict=True)]))
    assert found["knn_2shot"] == pytest.approx(np.mean(scores))
    assert found["knn_2shot_std"] == pytest.approx(np.std(scores))
