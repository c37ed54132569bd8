"""Zero-shot classification against scikit-learn, NumPy and open_clip."""

from __future__ import annotations

import numpy as np
import open_clip
import pytest
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from silc.data import build_tokenizer
from silc.data.prompts import TCL
from silc.data.splits import DataSet
from silc.evaluate.tasks import zeroshot_classification
from silc.evaluate.tasks.task import class_embeddings
from silc.evaluate.tasks.zeroshot_classification import accuracy
from silc.model import LogitScale
from tests.interchange.sources import export

from .conftest import NAMES, Memory, random_images


def values(found) -> dict[str, float]:
    return {metric.name: metric.value for metric in found}


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(2, 12), st.integers(0, 2**32 - 1))
def test_accuracy_equals_scikit_learns(images, classes, seed):
    rng = np.random.default_rng(seed)
    scores, truth = rng.normal(size=(images, classes)), rng.integers(0, classes, images)
    order = np.argsort(-scores, axis=1)[:, :5]
    found = values(accuracy(torch.from_numpy(truth), torch.from_numpy(order), classes))
    every = np.arange(classes)
    assert found["top1"] == pytest.approx(sklearn.metrics.accuracy_score(truth, order[:, 0]))
    if classes > 2:  # for two classes its function wants one score
        top5 = sklearn.metrics.top_k_accuracy_score(truth, scores, k=5, labels=every)
        assert found["top5"] == pytest.approx(top5)
    recall = sklearn.metrics.recall_score(truth, order[:, 0], labels=np.unique(truth), average="macro")
    assert found["mean_per_class"] == pytest.approx(recall)  # balanced accuracy: classes without images left out


def test_a_class_without_images_and_one_class_only():
    found = values(accuracy(torch.tensor([0, 0, 3]), torch.tensor([[0, 1], [1, 0], [3, 0]]), 5))
    assert found == {"top1": pytest.approx(2 / 3), "top5": 1.0, "mean_per_class": pytest.approx(0.75)}
    only = accuracy(torch.tensor([0, 0]), torch.tensor([[0], [0]]), 1)
    assert [(metric.value, metric.chance) for metric in only] == [(1, 1)] * 3


def test_each_metric_has_its_chance():
    found = accuracy(torch.tensor([0]), torch.tensor([[0, 1, 2, 3, 4]]), 128)
    assert [metric.chance for metric in found] == [1 / 128, 5 / 128, 1 / 128]


def test_a_collapsed_model_scores_no_more_than_one_class(config, towers, job):
    """All similarities tie: one class takes every image, and no tie counts as a hit for each."""
    same = [torch.full((16, 16, 3), 9, dtype=torch.uint8)] * 14
    data = DataSet("x", NAMES, Memory(same, labels=[i % 7 for i in range(14)]))
    assert values(zeroshot_classification.run(towers, data, job))["top1"] == pytest.approx(1 / 7)


def test_the_task_equals_open_clips_arithmetic(config, model, towers, job, tmp_path):
    """Class embeddings, similarities and ranking, computed by open_clip on the exported weights."""
    images = random_images(9, seed=3)
    labels = [0, 1, 2, None, 3, 4, 5, 6, 0]
    data = DataSet("x", NAMES, Memory(images, labels=labels))
    found = values(zeroshot_classification.run(towers, data, job))

    export(model.state_dict(), LogitScale("softmax"), config, tmp_path)
    twin = open_clip.create_model(f"local-dir:{tmp_path}", load_weights=True).eval()
    tokenizer = build_tokenizer("open_clip_bpe", config.model.text.context_length)
    weights = open_clip.build_zero_shot_classifier(
        twin, tokenizer, NAMES, config.eval.templates, None, torch.device("cpu")
    )
    torch.testing.assert_close(class_embeddings(towers, data, job), weights.T, atol=1e-5, rtol=1e-5)
    kept = [i for i, label in enumerate(labels) if label is not None]
    pixels = torch.stack([images[i].permute(2, 0, 1) for i in kept]).float() / 127.5 - 1
    with torch.no_grad():
        order = (twin.encode_image(pixels, normalize=True) @ weights).argsort(1, descending=True).numpy()
    truth = np.array([labels[i] for i in kept])
    assert found["top1"] == pytest.approx((order[:, 0] == truth).mean())
    assert found["top5"] == pytest.approx((order[:, :5] == truth[:, None]).any(1).mean())
    assert job.details["truth"].tolist() == truth.tolist()
    assert job.details["guess"].tolist() == order[:, 0].tolist()


def test_an_unreadable_image_is_left_out_and_counted(towers, job):
    images = random_images(5)
    images[2] = None
    list(zeroshot_classification.run(towers, DataSet("x", NAMES, Memory(images, labels=[0, 1, 2, 3, 4])), job))
    assert job.skipped == {("memory/2", "undecodable image")}
    assert job.details["truth"].tolist() == [0, 1, 3, 4]
    assert "the images show 4 of the 7 classes; all 7 compete, and chance is a guess among them" in job.notes


def test_nothing_is_noted_where_every_class_is_shown(towers, job):
    data = DataSet("x", NAMES, Memory(random_images(7), labels=list(range(7))))
    assert list(zeroshot_classification.run(towers, data, job))
    assert not any("show" in note for note in job.notes)


def test_a_split_without_an_image_is_an_error(towers, job):
    for images, reason in (([], "empty"), ([None, None], r"undecodable image \(2\)")):
        with pytest.raises(ValueError, match=f"in memory: none of .*{reason}"):
            list(
                zeroshot_classification.run(towers, DataSet("x", NAMES, Memory(images, labels=[0] * len(images))), job)
            )


def test_the_limit_takes_a_random_choice_that_is_always_the_same(config, towers, job):
    config.eval.limit = 40
    labels = [n % 4 for n in range(80)]  # classes in turn
    data = DataSet("x", NAMES, Memory(random_images(80), labels=labels))
    taken = job.chosen(data.test)
    assert taken == sorted(set(taken)) == job.chosen(data.test)
    assert len(taken) == 40
    list(zeroshot_classification.run(towers, data, job))
    assert job.details["truth"].tolist() == [labels[n] for n in taken]
    assert job.details["truth"].bincount().min() >= 5


def test_prompts_are_the_configurations_or_else_the_data_sets(config, towers, job):
    data = DataSet("x", NAMES, Memory([], labels=[]), templates=("one {}",))
    class_embeddings(towers, data, job)
    assert job.notes[-1] == "7 classes, 3 prompts averaged: '{}', 'a {}', 'a drawing of {}'"
    config.eval.templates = []
    assert torch.equal(class_embeddings(towers, data, job), towers.classes(NAMES, ["one {}"]))
    assert job.notes[-1].endswith(", 1 prompt: 'one {}'")
    config.eval.templates = ["a {}", "tcl"]
    assert torch.equal(class_embeddings(towers, data, job), towers.classes(NAMES, ["a {}", *TCL]))
    assert job.notes[-1].endswith(", 10 prompts averaged, such as 'a {}'")
