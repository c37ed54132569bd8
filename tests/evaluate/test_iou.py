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
from silc.evaluate.bootstrap import Resamples
from silc.evaluate.segmentation import iou
from silc.evaluate.segmentation.measure import measure

from .conftest import Memory, numbered_images, of_number, random_images


def figures(counts: torch.Tensor) -> dict[str, float]:
    return dict(zip(("miou", "pixel_accuracy", "mean_accuracy"), iou.figures(counts).tolist(), strict=True))


def counted(guess, truth, classes: int) -> torch.Tensor:
    return iou.total([iou.count(torch.as_tensor(guess), torch.as_tensor(truth), classes)], classes)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.integers(1, 60), st.floats(0, 0.6), st.integers(0, 2**32 - 1))
def test_it_equals_scikit_learn_and_torchmetrics(classes, pixels, ignored, seed):
    rng = np.random.default_rng(seed)
    truth, guess = rng.integers(0, classes, pixels), rng.integers(0, classes, pixels)
    truth[rng.uniform(size=pixels) < ignored] = IGNORE
    truth[0] = 0  # one pixel counts
    kept = truth != IGNORE
    counts = counted(guess, truth, classes)
    matrix = sklearn.metrics.confusion_matrix(truth[kept], guess[kept], labels=np.arange(classes))
    assert np.array_equal(counts.numpy(), [matrix.diagonal(), matrix.sum(1), matrix.sum(0)])

    met = np.union1d(truth[kept], guess[kept])  # a class that is neither in the truth nor guessed has no part
    jaccard = sklearn.metrics.jaccard_score(truth[kept], guess[kept], labels=met, average=None, zero_division=0)
    found = iou.per_class(counts).numpy()
    assert np.allclose(found[met], jaccard)
    assert np.isnan(np.delete(found, met)).all()
    assert figures(counts)["miou"] == pytest.approx(jaccard.mean())
    assert figures(counts)["pixel_accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(truth[kept], guess[kept]))
    recall = sklearn.metrics.recall_score(truth[kept], guess[kept], labels=np.unique(truth[kept]), average="macro")
    assert figures(counts)["mean_accuracy"] == pytest.approx(recall)

    if classes > 1:
        tensors = torch.from_numpy(guess), torch.from_numpy(truth)
        theirs = multiclass_jaccard_index(*tensors, classes, average="none", ignore_index=IGNORE).numpy()
        assert np.allclose(found[met], theirs[met], atol=1e-6)
        micro = multiclass_accuracy(*tensors, classes, average="micro", ignore_index=IGNORE)
        assert figures(counts)["pixel_accuracy"] == pytest.approx(micro.item(), abs=1e-6)


def test_a_class_that_is_only_guessed_counts_as_zero():
    counts = counted([0, 1, 1], [0, 0, 0], 3)
    assert iou.per_class(counts).tolist()[:2] == [pytest.approx(1 / 3), 0.0]
    assert figures(counts)["miou"] == pytest.approx(1 / 6)


def test_chance_is_what_random_guesses_get():
    rng = torch.Generator().manual_seed(0)
    truth = torch.multinomial(torch.tensor([0.6, 0.3, 0.08, 0.02]), 400_000, replacement=True, generator=rng)
    guess = torch.randint(0, 4, truth.shape, generator=rng)
    for metric in iou.metrics([iou.count(guess, truth, 4)], 4, Resamples([0])):
        assert metric.value == pytest.approx(metric.chance, abs=0.004)


def test_images_are_added_up(whole):
    rng = np.random.default_rng(0)
    masks = [torch.from_numpy(rng.integers(-1, 3, (16, 16))) for _ in range(9)]
    guesses = [torch.from_numpy(rng.integers(0, 3, (16, 16))) for _ in range(18)]
    images = numbered_images(9)
    images[3] = None
    one_hot = [torch.nn.functional.one_hot(guess, 3).permute(2, 0, 1).float() for guess in guesses]
    scores = of_number([torch.cat(pair) for pair in zip(one_hot[:9], one_hot[9:], strict=True)])
    measured = measure(whole, Memory(images, masks=masks), range(9), 3, 1, scores, maps=2)
    read = [n for n in range(9) if n != 3]
    truth = torch.stack([masks[n] for n in read])
    for rows, first in zip(measured.rows, (0, 9), strict=True):
        assert torch.equal(iou.total(rows, 3), counted(torch.stack([guesses[first + n] for n in read]), truth, 3))
    assert measured.present == ()
    assert whole.skipped == {("memory/3", "undecodable image")}


def test_errors_are_those_of_resampled_images():
    """Each resample's images put together one by one, and their pixels counted by scikit-learn."""
    rng = np.random.default_rng(3)
    masks, guesses = rng.integers(-1, 4, (9, 30)), rng.integers(0, 5, (9, 30))
    groups = [0, 0, 1, 2, 2, 2, 3, 4, 5]
    draws = Resamples(groups)
    rows = [iou.count(torch.from_numpy(g), torch.from_numpy(m), 5) for g, m in zip(guesses, masks, strict=True)]
    found = iou.metrics(rows, 5, draws)
    expected = []
    for weights in draws.weights(0, 9).long():
        drawn = np.repeat(np.arange(9), weights.numpy())
        truth, guess = masks[drawn].ravel(), guesses[drawn].ravel()
        truth, guess = truth[truth >= 0], guess[truth >= 0]
        met = np.union1d(truth, guess)
        score = sklearn.metrics.jaccard_score(truth, guess, labels=met, average="macro", zero_division=0)
        recall = sklearn.metrics.recall_score(truth, guess, labels=np.unique(truth), average="macro")
        expected.append((score, (truth == guess).mean(), recall))
    assert [metric.error for metric in found] == pytest.approx(np.std(expected, axis=0, ddof=1).tolist())


def test_blocks_of_images_give_the_same_errors(monkeypatch):
    rng = torch.Generator().manual_seed(0)
    rows = [iou.count(*torch.randint(0, 6, (2, 20), generator=rng), 6) for _ in range(11)]
    whole = iou.resampled(rows, 6, Resamples(range(11)))
    monkeypatch.setattr(iou, "IMAGES", 4)
    torch.testing.assert_close(iou.resampled(rows, 6, Resamples(range(11))), whole, rtol=0, atol=0)


def test_a_mask_of_another_size_and_a_split_without_classes_are_errors(whole):
    scores = lambda crops: torch.zeros(len(crops), 2, 4, 4)  # noqa: E731
    split = Memory(random_images(1, 16, 20), masks=[torch.zeros(16, 16, dtype=torch.int64)])
    with pytest.raises(ValueError, match=r"mask of memory/0 is 16 x 16 pixels, its image 20 x 16"):
        measure(whole, split, [0], 2, 1, scores)
    for split in (Memory([], masks=[]), Memory(random_images(1), masks=[torch.full((16, 16), IGNORE)])):
        with pytest.raises(ValueError, match=r"in memory: no pixel .* empty"):
            measure(whole, split, range(len(split)), 2, 1, scores)


def test_pixels_are_counted_in_parts(monkeypatch):
    rng = np.random.default_rng(0)
    truth, guess = (torch.from_numpy(rng.integers(-1, 5, (30, 7)).clip(low)) for low in (-1, 0))
    whole = counted(guess, truth, 5)
    monkeypatch.setattr(iou, "PIXELS", 11)
    assert torch.equal(counted(guess, truth, 5), whole)
    assert whole[1].sum() == (truth != IGNORE).sum()
