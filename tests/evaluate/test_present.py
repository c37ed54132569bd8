"""Measures among the classes present: against loops over pixels and scikit-learn, and chance against guesses."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from silc.data.splits import IGNORE
from silc.evaluate.bootstrap import Resamples
from silc.evaluate.segmentation import present
from silc.evaluate.segmentation.measure import measure

from .conftest import Memory, numbered_images, of_number


def written_out(scores: np.ndarray, truth: np.ndarray) -> dict[str, list[float]] | None:
    """Of an image: for each labelled pixel whether it is right, the IoU, recall and AUC of each class present."""
    height, width = truth.shape
    classes = sorted({int(c) for c in truth.ravel() if c != IGNORE})
    if len(classes) < 2:
        return None
    assigned = np.full((height, width), -2)
    for y in range(height):
        for x in range(width):
            assigned[y, x] = max(classes, key=lambda c: (scores[c, y, x], -c))
    labelled = truth != IGNORE
    out = {"right": (assigned == truth)[labelled].tolist(), "iou": [], "recall": [], "auc": []}
    for c in classes:
        own, guessed = truth == c, (assigned == c) & labelled
        out["iou"].append((own & guessed).sum() / (own | guessed).sum())
        out["recall"].append((own & guessed).sum() / own.sum())
        out["auc"].append(sklearn.metrics.roc_auc_score(own.ravel(), scores[c].astype(np.float64).ravel()))
    return out


def draw_images(seed: int, count: int, classes: int, ignored: float, levels: int):
    """Few levels of scores make ties; masks of few classes leave images with one, or none."""
    rng = np.random.default_rng(seed)
    scores, truths = [], []
    for _ in range(count):
        height, width = rng.integers(1, 6, 2)
        some = rng.integers(0, classes, rng.integers(1, 4))
        truth = rng.choice(some, (height, width))
        truth[rng.uniform(size=truth.shape) < ignored] = IGNORE
        truths.append(torch.from_numpy(truth))
        scores.append(torch.from_numpy(rng.integers(0, levels, (classes, height, width)) / levels).float())
    return scores, truths


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 6), st.floats(0, 0.9), st.integers(1, 5))
def test_they_equal_loops_over_pixels(seed, count, classes, ignored, levels):
    scores, truths = draw_images(seed, count, classes, ignored, levels)
    rows = [present.of_image(*each) for each in zip(scores, truths, strict=True)]
    found, note = present.metrics(rows, Resamples(range(count)))
    each = [written_out(s.numpy(), t.numpy()) for s, t in zip(scores, truths, strict=True)]
    kept = [one for one in each if one is not None]
    if not kept:
        assert found == []
        assert note == (
            "left out, as no image has two classes: present_accuracy, present_miou, object_recall, localization_auc"
        )
        return
    values = {metric.name: metric.value for metric in found}
    assert list(values) == list(present.NAMES)
    assert values["present_accuracy"] == pytest.approx(np.concatenate([one["right"] for one in kept]).mean())
    assert values["present_miou"] == pytest.approx(np.mean([np.mean(one["iou"]) for one in kept]))
    assert values["object_recall"] == pytest.approx(np.concatenate([one["recall"] for one in kept]).mean())
    assert values["localization_auc"] == pytest.approx(np.concatenate([one["auc"] for one in kept]).mean())
    largest = [np.bincount(t[t != IGNORE]).max() for t, one in zip(truths, each, strict=True) if one]
    share = sum(largest) / sum(len(one["right"]) for one in kept)
    assert f"{len(kept)} image" in note
    assert note.endswith(f"a present_accuracy of {share:.3f}")


def test_errors_are_those_of_resampled_images():
    scores, truths = draw_images(5, 12, 4, 0.2, 3)
    draws = Resamples([0, 0, *range(1, 11)])
    rows = [present.of_image(*each) for each in zip(scores, truths, strict=True)]
    found, _ = present.metrics(rows, draws)
    each = [written_out(s.numpy(), t.numpy()) for s, t in zip(scores, truths, strict=True)]
    assert None in each  # those without two classes are drawn too
    values = []
    for weights in draws.weights(0, 12).long().tolist():
        kept = [one for one, times in zip(each, weights, strict=True) for _ in range(times) if one is not None]
        join = lambda name, kept=kept: np.concatenate([one[name] for one in kept]).mean()  # noqa: E731
        values.append((join("right"), np.mean([np.mean(one["iou"]) for one in kept]), join("recall"), join("auc")))
    assert [metric.error for metric in found] == pytest.approx(np.std(values, axis=0, ddof=1).tolist())


def test_chance_is_what_even_guesses_get():
    """Random scores: each class present is the best with equal probability, and no place is preferred."""
    rng = np.random.default_rng(0)
    rows = []
    for shares in ([0.7, 0.3, 0, 0], [0.5, 0.3, 0.15, 0.05], [0, 0, 0.9, 0.1]):
        for _ in range(20):
            truth = rng.choice(4, (60, 60), p=shares)
            truth[rng.uniform(size=truth.shape) < 0.3] = IGNORE
            scores = torch.from_numpy(rng.uniform(size=(4, 60, 60))).float()
            rows.append(present.of_image(scores, torch.from_numpy(truth)))
    found, _ = present.metrics(rows, Resamples(range(len(rows))))
    for metric in found:
        assert metric.value == pytest.approx(metric.chance, abs=0.006), metric.name
    by_name = {metric.name: metric.chance for metric in found}
    assert by_name["localization_auc"] == 0.5
    assert by_name["present_accuracy"] == pytest.approx((1 / 2 + 1 / 4 + 1 / 2) / 3, abs=0.01)
    assert by_name["object_recall"] == pytest.approx(3 / 8)


def test_a_large_object_does_not_rule_the_recall():
    truth = torch.zeros(10, 10, dtype=torch.int64)
    truth[0, :5] = 1
    scores = torch.zeros(2, 10, 10)
    scores[0] = 1
    found, note = present.metrics([present.of_image(scores, truth)] * 2, Resamples(range(2)))
    values = {metric.name: metric.value for metric in found}
    assert values == {
        "present_accuracy": 0.95,
        "present_miou": pytest.approx(0.95 / 2),
        "object_recall": 0.5,
        "localization_auc": 0.5,
    }
    assert note.endswith("0.950")


def test_pixels_without_a_class_are_not_the_object():
    """They count against a class's area, and not in the other measures."""
    truth = torch.tensor([[0, 1, IGNORE, IGNORE]])
    scores = torch.tensor([[[0.5, 0.1, 0.9, 0.9]], [[0.1, 0.5, 0.0, 0.0]]])
    found, _ = present.metrics([present.of_image(scores, truth)], Resamples([0]))
    assert [metric.value for metric in found] == [1, 1, 1, pytest.approx((1 / 3 + 1) / 2)]
    assert [metric.error for metric in found] == [None] * 4


def test_scores_of_another_size_are_upsampled():
    rng = torch.Generator().manual_seed(0)
    scores, truth = torch.rand(5, 3, 4, generator=rng), torch.randint(-1, 5, (9, 8), generator=rng)
    # In double precision: float32 places of cells would break ties, which an area counts as halves.
    whole = F.interpolate(scores[None].double(), (9, 8), mode="bilinear")[0].float()
    torch.testing.assert_close(present.of_image(scores, truth), present.of_image(whole, truth))


def test_an_area_is_exact_with_many_pixels():
    own = torch.arange(400_000) % 2 == 0
    assert present.auc(torch.full((400_000,), 0.1), own) == 0.5
    assert present.auc(own.float(), own) == 1.0
    assert present.auc(-own.float(), own) == 0.0


def test_they_are_measured_over_images_that_can_be_read(whole):
    rng = torch.Generator().manual_seed(0)
    masks = [torch.randint(-1, 4, (16, 16), generator=rng) for _ in range(6)]
    scores = [torch.rand(4, 16, 16, generator=rng) for _ in range(6)]
    images = numbered_images(6)
    images[2] = None
    measured = measure(whole, Memory(images, masks=masks), range(6), 4, 1, of_number(scores), among_present=True)
    alone, _ = present.metrics([present.of_image(scores[n], masks[n]) for n in (0, 1, 3, 4, 5)], Resamples(range(5)))
    found = measured.metrics(whole)
    assert [metric.name for metric in found[:3]] == ["miou", "pixel_accuracy", "mean_accuracy"]
    assert found[3:] == alone
    assert "among the classes present: 5 images" in whole.notes[-1]


def test_no_image_of_two_classes_leaves_them_out_with_a_note(whole):
    split = Memory(numbered_images(2), masks=[torch.zeros(16, 16, dtype=torch.int64)] * 2)
    measured = measure(whole, split, range(2), 3, 1, of_number([torch.rand(3, 2, 2)] * 2), among_present=True)
    assert [metric.name for metric in measured.metrics(whole)] == ["miou", "pixel_accuracy", "mean_accuracy"]
    assert whole.notes[-1].startswith("left out, as no image has two classes: present_accuracy")
