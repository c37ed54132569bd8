"""Intersection over union against scikit-learn and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_jaccard_index

from silc.data.splits import IGNORE
from silc.evaluate.segmentation import iou

from .conftest import Memory, random_images


def values(matrix: torch.Tensor) -> dict[str, float]:
    return {metric.name: metric.value for metric in iou.metrics(matrix)}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.integers(1, 60), st.floats(0, 0.6), st.integers(0, 2**32 - 1))
def test_it_equals_scikit_learn_and_torchmetrics(classes, pixels, ignored, seed):
    rng = np.random.default_rng(seed)
    truth, guess = rng.integers(0, classes, pixels), rng.integers(0, classes, pixels)
    truth[rng.uniform(size=pixels) < ignored] = IGNORE
    truth[0] = 0  # one pixel counts
    kept = truth != IGNORE
    matrix = iou.confusion(torch.from_numpy(guess), torch.from_numpy(truth), classes)
    every = np.arange(classes)
    assert np.array_equal(matrix.numpy(), sklearn.metrics.confusion_matrix(truth[kept], guess[kept], labels=every))

    met = np.union1d(truth[kept], guess[kept])  # a class that is neither in the truth nor guessed has no part
    jaccard = sklearn.metrics.jaccard_score(truth[kept], guess[kept], labels=met, average=None, zero_division=0)
    found = iou.per_class(matrix).numpy()
    assert np.allclose(found[met], jaccard)
    assert np.isnan(np.delete(found, met)).all()
    assert values(matrix)["miou"] == pytest.approx(jaccard.mean())
    assert values(matrix)["pixel_accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(truth[kept], guess[kept]))
    recall = sklearn.metrics.recall_score(truth[kept], guess[kept], labels=np.unique(truth[kept]), average="macro")
    assert values(matrix)["mean_accuracy"] == pytest.approx(recall)

    if classes > 1:
        tensors = torch.from_numpy(guess), torch.from_numpy(truth)
        theirs = multiclass_jaccard_index(*tensors, classes, average="none", ignore_index=IGNORE).numpy()
        assert np.allclose(found[met], theirs[met], atol=1e-6)
        micro = multiclass_accuracy(*tensors, classes, average="micro", ignore_index=IGNORE)
        assert values(matrix)["pixel_accuracy"] == pytest.approx(micro.item(), abs=1e-6)


def test_a_class_that_is_only_guessed_counts_as_zero():
    matrix = iou.confusion(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 0]), 3)
    assert iou.per_class(matrix).tolist()[:2] == [pytest.approx(1 / 3), 0.0]
    assert values(matrix)["miou"] == pytest.approx(1 / 6)


def test_chance_is_what_random_guesses_get():
    rng = torch.Generator().manual_seed(0)
    truth = torch.multinomial(torch.tensor([0.6, 0.3, 0.08, 0.02]), 400_000, replacement=True, generator=rng)
    guess = torch.randint(0, 4, truth.shape, generator=rng)
    found = iou.metrics(iou.confusion(guess, truth, 4))
    for metric in found:
        assert metric.value == pytest.approx(metric.chance, abs=0.004)


def test_images_are_added_up(job):
    rng = np.random.default_rng(0)
    masks = [torch.from_numpy(rng.integers(-1, 3, (16, 16))) for _ in range(5)]
    guesses = {n: torch.from_numpy(rng.integers(0, 3, (16, 16))) for n in range(5)}
    images = random_images(5)
    images[3] = None
    split = Memory(images, masks=masks)
    number = iter([0, 1, 2, 4])
    (matrix,) = iou.measure(job, split, range(5), 3, lambda image: [guesses[next(number)]])
    pairs = [(masks[n].flatten(), guesses[n].flatten()) for n in (0, 1, 2, 4)]
    truth, guess = (torch.cat(column) for column in zip(*pairs, strict=True))
    assert torch.equal(matrix, iou.confusion(guess, truth, 3))
    assert job.skipped == {("memory/3", "undecodable image")}


def test_a_mask_of_another_size_and_a_split_without_classes_are_errors(job):
    predict = lambda image: [torch.zeros(image.shape[:2], dtype=torch.int64)]  # noqa: E731
    split = Memory(random_images(1, 16, 20), masks=[torch.zeros(16, 16, dtype=torch.int64)])
    with pytest.raises(ValueError, match=r"mask of memory/0 is 16 x 16 pixels, its image 20 x 16"):
        iou.measure(job, split, [0], 2, predict)
    for split in (Memory([], masks=[]), Memory(random_images(1), masks=[torch.full((16, 16), IGNORE)])):
        with pytest.raises(ValueError, match=r"in memory: no pixel .* empty"):
            iou.measure(job, split, range(len(split)), 2, predict)


def test_pixels_are_counted_in_parts(monkeypatch):
    rng = np.random.default_rng(0)
    truth, guess = (torch.from_numpy(rng.integers(-1, 5, (30, 7)).clip(low)) for low in (-1, 0))
    whole = iou.confusion(guess, truth, 5)
    monkeypatch.setattr(iou, "PIXELS", 11)
    assert torch.equal(iou.confusion(guess, truth, 5), whole)
    assert whole.sum() == (truth != IGNORE).sum()
